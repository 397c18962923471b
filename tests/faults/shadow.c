/* Keeps a copy of what a loss of power would leave behind.
 *
 * Loaded by LD_PRELOAD. Whatever fsync or fdatasync puts on the disk of the files in $SHADOW_OF is
 * copied to $SHADOW, whole, and so the files there hold what was synced and nothing else. What is
 * removed is removed there at once, as a file system with a log does it at the next sync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where a file's copy is; 0 for a file that has none. */
static int shadow(const char *path, char *found)
{
    const char *of = getenv("SHADOW_OF"), *to = getenv("SHADOW");

    if (!of || !to || strncmp(path, of, strlen(of)) || path[strlen(of)] != '/')
        return 0;
    return snprintf(found, PATH_MAX, "%s/%s", to, strrchr(path, '/') + 1) < PATH_MAX;
}

static void copy(int from)
{
    char link[64], path[PATH_MAX], part[PATH_MAX + 8], whole[PATH_MAX], buffer[65536];
    ssize_t length;
    off_t at = 0;
    int to;

    snprintf(link, sizeof link, "/proc/self/fd/%d", from);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    if (!shadow(path, whole))
        return;
    snprintf(part, sizeof part, "%s.part", whole);
    to = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while ((length = pread(from, buffer, sizeof buffer, at)) > 0) {
        if (write(to, buffer, length) != length)
            abort();
        at += length;
    }
    close(to);
    if (rename(part, whole))
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
    char whole[PATH_MAX];
    int (*remove)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");

    if (shadow(path, whole))
        remove(whole);
    return remove(path);
}
