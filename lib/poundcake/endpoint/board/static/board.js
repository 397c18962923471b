// Refresh the page in place, keep times up to date, and copy commands. Without this script, the
// page shows the same, as of the time when it was loaded.
"use strict";
