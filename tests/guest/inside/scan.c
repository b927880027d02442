/* Trees as a guest sees them.
 *
 *   scan DIR   a line for DIR and each file below: path, st_ino, d_ino, links, type and mode, size
 *   list DIR   reads a directory, and again from a place in its middle: how many names and numbers it has */
#include "guest.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

struct entry { char *name; uint64_t ino; };
static size_t base;

static int by_name(const void *one, const void *two)
{
    return strcmp(((const struct entry *)one)->name, ((const struct entry *)two)->name);
}

static int by_number(const void *one, const void *two)
{
    uint64_t a = ((const struct entry *)one)->ino, b = ((const struct entry *)two)->ino;
    return (a > b) - (a < b);
}

static struct entry *entries(const char *path, size_t *count)
{
    DIR *dir = opendir(path);
    if (!dir)
        DIE(path);
    struct entry *found = NULL;
    *count = 0;
    for (;;) {
        errno = 0;
        struct dirent *each = readdir(dir);
        if (!each && errno)
            DIE(path);
        if (!each)
            break;
        if (!strcmp(each->d_name, ".") || !strcmp(each->d_name, ".."))
            continue;
        found = realloc(found, (*count + 1) * sizeof *found);
        found[(*count)++] = (struct entry){strdup(each->d_name), each->d_ino};
    }
    closedir(dir);
    return found;
}

static void tell(const char *path, uint64_t d_ino)
{
    struct stat st;
    if (lstat(path, &st))
        DIE(path);
    fputs("{\"path\": ", stdout);
    print_hex(strlen(path) > base ? path + base + 1 : "");
    printf(", \"ino\": %" PRIu64 ", \"d_ino\": %" PRIu64 ", \"nlink\": %u, \"mode\": %u, \"size\": %" PRIu64 "}\n",
           (uint64_t)st.st_ino, d_ino ? d_ino : (uint64_t)st.st_ino, (unsigned)st.st_nlink, st.st_mode,
           (uint64_t)st.st_size);
    if (!S_ISDIR(st.st_mode))
        return;
    size_t count;
    struct entry *found = entries(path, &count);
    if (count)
        qsort(found, count, sizeof *found, by_name);
    for (size_t n = 0; n < count; n++) {
        char *below;
        if (asprintf(&below, "%s/%s", path, found[n].name) < 0)
            DIE("asprintf");
        tell(below, found[n].ino);
        free(below);
    }
}

int scan(int count, char **words)
{
    if (count != 2)
        return 2;
    base = strlen(words[1]);
    tell(words[1], 0);
    return 0;
}

int list(int count, char **words)
{
    if (count != 2)
        return 2;
    size_t all, names = 0, numbers = 0, again = 0;
    struct entry *found = entries(words[1], &all);
    qsort(found, all, sizeof *found, by_name);
    for (size_t n = 0; n < all; n++)
        names += !n || strcmp(found[n].name, found[n - 1].name);
    qsort(found, all, sizeof *found, by_number);
    for (size_t n = 0; n < all; n++)
        numbers += !n || found[n].ino != found[n - 1].ino;

    DIR *dir = opendir(words[1]);
    for (size_t n = 0; n < all / 2; n++)
        readdir(dir);
    long middle = telldir(dir);
    struct dirent *next = readdir(dir);
    char *name = strdup(next ? next->d_name : "");
    rewinddir(dir);
    readdir(dir);
    seekdir(dir, middle);
    next = readdir(dir);
    again = next && !strcmp(name, next->d_name);
    printf("{\"entries\": %zu, \"names\": %zu, \"numbers\": %zu, \"found_again\": %zu}\n", all, names, numbers, again);
    return 0;
}
