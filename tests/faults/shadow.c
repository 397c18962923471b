/* Keep a copy of the data that would survive a loss of power.
 *
 * Loaded with LD_PRELOAD. After each fsync or fdatasync of a file in $SHADOW_OF, the whole file is
 * copied to $SHADOW, so that the copies contain only data that was synced. The copy of a removed
 * file is removed immediately; a journaling file system would do so at the next sync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Write the path of a file's copy to copy_path. Return 0 if the file must not be copied. */
static int find_copy(const char *path, char *copy_path)
{
    const char *folder = getenv("SHADOW_OF"), *shadow = getenv("SHADOW");

    if (!folder || !shadow || strncmp(path, folder, strlen(folder)) || path[strlen(folder)] != '/')
        return 0;
    return snprintf(copy_path, PATH_MAX, "%s/%s", shadow, strrchr(path, '/') + 1) < PATH_MAX;
}

static void copy(int source)
{
    char link[64], path[PATH_MAX], part_path[PATH_MAX + 8], copy_path[PATH_MAX], buffer[65536];
    ssize_t length;
    off_t offset = 0;
    int target;

    snprintf(link, sizeof link, "/proc/self/fd/%d", source);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    if (!find_copy(path, copy_path))
        return;
    snprintf(part_path, sizeof part_path, "%s.part", copy_path);
    target = open(part_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((length = pread(source, buffer, sizeof buffer, offset)) > 0) {
        if (write(target, buffer, length) != length)
            abort();
        offset += length;
    }
    close(target);
    if (rename(part_path, copy_path))
        abort();
}

int fsync(int file)
{
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);

    if (!result)
        copy(file);
    return result;
}

int fdatasync(int file)
{
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);

    if (!result)
        copy(file);
    return result;
}

int unlink(const char *path)
{
    char copy_path[PATH_MAX];
    int (*real_unlink)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");

    if (find_copy(path, copy_path))
        real_unlink(copy_path);
    return real_unlink(path);
}
