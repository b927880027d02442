/* What POSIX promises, tried in an empty directory: contract DIR DIALECT CACHE
 *
 * Prints a line for each promise that is broken, and one with how many were tried. DIALECT is "9p2000.L" or "9p2000.u",
 * which knows no extended attributes and no rename into another directory. Linux's client cuts the times that programs
 * set to whole seconds whatever the dialect, as it leaves its super block's s_time_gran as it was. */
#include "guest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int tried, linux_dialect, shared_mappings;

#define IS(promise) (tried++, errno = 0, (promise) ? (void)0 : broken(__LINE__, #promise))
#define FAILS(call, with) (tried++, errno = 0, (call) == -1 && errno == (with) ? (void)0 : broken(__LINE__, #call " -> " #with))

static void broken(int line, const char *promise)
{
    int error = errno;
    printf("{\"line\": %d, \"errno\": \"%s\", \"broken\": ", line, error ? strerrorname_np(error) : "");
    print_hex(promise);
    puts("}");
}

static struct stat st;

static void put(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    IS(fd >= 0);
    IS(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    /* link(2) by a .u client takes the file's size from the server, even when it has not sent all that was written */
    IS(linux_dialect || !fsync(fd));
    IS(close(fd) == 0);
}

static const char *get(const char *name)
{
    static char text[200];
    int fd = open(name, O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[size < 0 ? 0 : size] = 0;
    return size < 0 ? "(cannot be read)" : text;
}

static int listed(const char *name)
{
    int found = 0;
    DIR *dir = opendir(".");
    for (struct dirent *each; dir && (each = readdir(dir));)
        found += !strcmp(each->d_name, name);
    closedir(dir);
    return found;
}

static void contents(void)
{
    char text[20] = "";
    put("a", "one");
    IS(!strcmp(get("a"), "one"));
    FAILS(open("a", O_WRONLY | O_CREAT | O_EXCL, 0600), EEXIST);
    FAILS(open("missing", O_RDONLY), ENOENT);
    FAILS(open("a/b", O_RDONLY), ENOTDIR);
    put("a", "2");
    IS(!stat("a", &st) && st.st_size == 1);
    int one = open("a", O_RDWR | O_APPEND), two = open("a", O_RDWR | O_APPEND);
    IS(write(one, "34", 2) == 2);
    IS(write(two, "56", 2) == 2);
    IS(!fsync(one) && !fsync(two));
    IS(!strcmp(get("a"), "23456"));
    IS(!close(one) && !close(two));
    one = open("a", O_RDWR);
    IS(pwrite(one, "X", 1, 9) == 1);
    IS(pread(one, text, 20, 0) == 10 && !memcmp(text, "23456\0\0\0\0X", 10));
    IS(!ftruncate(one, 4));
    IS(!fstat(one, &st) && st.st_size == 4);
    IS(!close(one));
    IS(!truncate("a", 2));
    IS(!strcmp(get("a"), "23"));
    IS(!unlink("a"));
    FAILS(stat("a", &st), ENOENT);
    FAILS(unlink("a"), ENOENT);

    size_t size = 300001; /* more than one message of any usual size, and no multiple of a page */
    char *large = malloc(size), *back = malloc(size);
    for (size_t n = 0; n < size; n++)
        large[n] = n * 7 + n / 4096;
    one = open("large", O_RDWR | O_CREAT, 0644);
    for (size_t at = 0, done; at < size; at += done) {
        done = write(one, large + at, size - at);
        if (done == (size_t)-1)
            DIE("large");
    }
    IS(!close(one));
    IS((one = open("large", O_RDONLY)) >= 0);
    size_t read_back = 0;
    for (ssize_t done; (done = read(one, back + read_back, size - read_back)) > 0; read_back += done)
        ;
    IS(read_back == size && !memcmp(large, back, size));
    IS(!close(one) && !unlink("large"));
    free(large), free(back);
}

static void unlinked(void)
{
    char text[10] = "";
    int fd = open("gone", O_RDWR | O_CREAT, 0600);
    IS(write(fd, "abc", 3) == 3);
    IS(!unlink("gone"));
    IS(access("gone", F_OK) == -1);
    IS(pwrite(fd, "D", 1, 3) == 1);
    IS(pread(fd, text, 10, 0) == 4 && !strcmp(text, "abcD"));
    put("gone", "another");
    IS(pread(fd, text, 10, 0) == 4);
    IS(!close(fd));
    IS(!strcmp(get("gone"), "another"));
    IS(!unlink("gone"));
}

static void renames(void)
{
    put("a", "of a"), put("b", "of b");
    IS(!stat("a", &st));
    ino_t ino = st.st_ino;
    IS(!rename("a", "b"));
    IS(!strcmp(get("b"), "of a"));
    IS(!stat("b", &st) && st.st_ino == ino);
    FAILS(stat("a", &st), ENOENT);
    FAILS(rename("a", "b"), ENOENT);
    IS(!mkdir("d", 0755) && !mkdir("e", 0755));
    FAILS(mkdir("d", 0755), EEXIST);
    if (linux_dialect) { /* the other client refuses it all by itself */
        IS(!rename("b", "d/b"));
        IS(!strcmp(get("d/b"), "of a"));
        FAILS(rename("e", "d"), ENOTEMPTY);
        FAILS(rename("d", "d/below"), EINVAL);
        FAILS(rmdir("d"), ENOTEMPTY);
        IS(!rename("d", "e"));
        IS(!strcmp(get("e/b"), "of a"));
        IS(!unlink("e/b") && !rmdir("e"));
    } else {
        IS(!rename("d", "f"));
        IS(!rmdir("e") && !rmdir("f") && !unlink("b"));
    }
    FAILS(rmdir("e"), ENOENT);
}

static void links(void)
{
    char target[1001], text[1100];
    memset(target, 'x', 1000);
    target[1000] = 0;
    put("a", "of a");
    IS(!link("a", "b"));
    IS(!stat("a", &st) && st.st_nlink == 2);
    ino_t ino = st.st_ino;
    IS(!stat("b", &st) && st.st_ino == ino && st.st_nlink == 2);
    FAILS(link("a", "b"), EEXIST);
    IS(!unlink("a"));
    IS(!strcmp(get("b"), "of a"));
    IS(!symlink("b", "to-b"));
    IS(!strcmp(get("to-b"), "of a"));
    IS(!lstat("to-b", &st) && S_ISLNK(st.st_mode) && st.st_size == 1);
    IS(readlink("to-b", text, sizeof text) == 1 && text[0] == 'b');
    IS(!unlink("b"));
    FAILS(open("to-b", O_RDONLY), ENOENT);
    IS(!symlink(target, "long"));
    IS(readlink("long", text, sizeof text) == 1000 && !memcmp(text, target, 1000));
    IS(!symlink("loop", "loop"));
    FAILS(open("loop", O_RDONLY), ELOOP);
    IS(!unlink("to-b") && !unlink("long") && !unlink("loop"));
}

static void special(void)
{
    char text[4] = "";
    IS(!mkfifo("fifo", 0640));
    IS(!lstat("fifo", &st) && S_ISFIFO(st.st_mode) && (st.st_mode & 0777) == 0640);
    int fd = open("fifo", O_RDWR);
    IS(write(fd, "abc", 3) == 3 && read(fd, text, 3) == 3 && !strcmp(text, "abc"));
    IS(!close(fd) && !unlink("fifo"));
    IS(!mknod("null", S_IFCHR | 0666, 1 << 8 | 3));
    IS(!lstat("null", &st) && S_ISCHR(st.st_mode) && st.st_rdev == (1 << 8 | 3));
    IS(!unlink("null"));
}

static void attributes(void)
{
    char text[20] = "";
    put("a", "");
    IS(!chmod("a", 04711));
    IS(!stat("a", &st) && (st.st_mode & 07777) == 04711);
    IS(!chown("a", 1234, 4321));
    IS(!stat("a", &st) && st.st_uid == 1234 && st.st_gid == 4321);
    IS((st.st_mode & 07777) == 04711 || (st.st_mode & 07777) == 0711);
    struct timespec times[2] = {{1111111111, 123456789}, {1222222222, 987654321}};
    IS(!utimensat(AT_FDCWD, "a", times, 0));
    IS(!stat("a", &st) && st.st_atim.tv_sec == 1111111111 && st.st_mtim.tv_sec == 1222222222);
    if (linux_dialect) {
        IS(!setxattr("a", "user.x", "value", 5, XATTR_CREATE));
        FAILS(setxattr("a", "user.x", "value", 5, XATTR_CREATE), EEXIST);
        IS(getxattr("a", "user.x", text, 20) == 5 && !strcmp(text, "value"));
        FAILS(getxattr("a", "user.x", text, 2), ERANGE);
        FAILS(getxattr("a", "user.y", text, 20), ENODATA);
        FAILS(setxattr("a", "user.y", "", 0, XATTR_REPLACE), ENODATA);
        IS(listxattr("a", text, 20) == 7 && !strcmp(text, "user.x"));
        IS(!removexattr("a", "user.x"));
        FAILS(getxattr("a", "user.x", text, 20), ENODATA);
    }
    struct statvfs fs;
    IS(!statvfs("a", &fs) && (!linux_dialect || (fs.f_blocks && fs.f_namemax == 255)));
    IS(!unlink("a"));
}

static void names(void)
{
    char longest[257];
    memset(longest, 'n', 256);
    longest[256] = 0;
    FAILS(open(longest, O_WRONLY | O_CREAT, 0644), ENAMETOOLONG);
    longest[255] = 0;
    const char *odd[] = {"\xff\xfe\x80", "new\nline", " ", "quote\"\\", "\xc3\xa4", longest};
    for (size_t n = 0; n < sizeof odd / sizeof *odd; n++) {
        put(odd[n], "odd");
        IS(listed(odd[n]) == 1);
        IS(!strcmp(get(odd[n]), "odd"));
        IS(!unlink(odd[n]));
        IS(listed(odd[n]) == 0);
    }
    IS(!linux_dialect || (listed(".") == 1 && listed("..") == 1)); /* the other dialects have none */
}

static void mapped(void)
{
    put("a", "0123456789");
    int fd = open("a", O_RDWR);
    char *seen = mmap(NULL, 10, PROT_READ, MAP_PRIVATE, fd, 0);
    IS(seen != MAP_FAILED && !memcmp(seen, "0123456789", 10));
    munmap(seen, 10);
    if (shared_mappings) {
        seen = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        IS(seen != MAP_FAILED);
        seen[3] = 'x';
        IS(!msync(seen, 10, MS_SYNC));
        munmap(seen, 10);
        IS(!strcmp(get("a"), "012x456789"));
    }
    IS(!close(fd) && !unlink("a"));
}

static void deep(void)
{
    char path[PATH_MAX];
    const char *name = "a directory of a deep tree";
    int top = open(".", O_RDONLY | O_DIRECTORY);
    for (int n = 0; n < 60; n++)
        IS(!mkdir(name, 0755) && !chdir(name));
    put("bottom", "of it");
    IS(getcwd(path, sizeof path) && strlen(path) > 60 * strlen(name));
    strcat(path, "/bottom");
    IS(!strcmp(get(path), "of it"));
    IS(!unlink("bottom"));
    for (int n = 0; n < 60; n++)
        IS(!chdir("..") && !rmdir(name));
    IS(!fchdir(top) && !close(top));
}

/* Locks of a part of a file, which a child wants too. A client of the other dialects grants every lock without asking
 * anybody (v9fs_file_lock). */
static void ranges(void)
{
    if (!linux_dialect)
        return;
    struct flock part = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10};
    put("a", "a");
    int fd = open("a", O_RDWR);
    IS(!fcntl(fd, F_GETLK, &part) && part.l_type == F_UNLCK);
    part.l_type = F_WRLCK;
    IS(!fcntl(fd, F_SETLK, &part));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        tried = 0;
        struct flock wanted = part;
        FAILS(fcntl(fd, F_SETLK, &wanted), EAGAIN);
        IS(!fcntl(fd, F_GETLK, &wanted) && wanted.l_type == F_WRLCK && wanted.l_start == 10 && wanted.l_len == 10);
        struct flock beside = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 20, .l_len = 1};
        IS(!fcntl(fd, F_SETLK, &beside));
        fflush(stdout);
        _exit(tried);
    }
    int status = 0;
    IS(waitpid(child, &status, 0) == child && WIFEXITED(status));
    tried += WEXITSTATUS(status);
    part.l_type = F_UNLCK;
    IS(!fcntl(fd, F_SETLK, &part));
    IS(!close(fd) && !unlink("a"));
}

/* As a user of the guest who is nobody on the host. */
static void user(void)
{
    put("root's", "secret");
    IS(!chmod("root's", 0600));
    IS(!mkdir("open", 0777) && !chmod("open", 0777));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        if (setgid(61001) || setuid(61001))
            DIE("setuid");
        tried = 0;
        FAILS(open("root's", O_RDONLY), EACCES);
        FAILS(mkdir("refused", 0755), EACCES);
        FAILS(chmod("open", 0755), EPERM);
        put("open/mine", "mine");
        IS(!stat("open/mine", &st) && st.st_uid == 61001);
        IS(!linux_dialect || st.st_gid == 61001); /* the others do not say with which group */
        IS(!unlink("open/mine"));
        fflush(stdout);
        _exit(tried);
    }
    int status = 0;
    IS(waitpid(child, &status, 0) == child && WIFEXITED(status));
    tried += WEXITSTATUS(status);
    IS(!rmdir("open") && !unlink("root's"));
}

int contract(int count, char **words)
{
    if (count != 4)
        return 2;
    if (chdir(words[1]))
        DIE(words[1]);
    umask(022);
    linux_dialect = !strcmp(words[2], "9p2000.L");
    shared_mappings = linux_dialect && strcmp(words[3], "none"); /* no cache, no page to share */
    void (*parts[])(void) = {contents, unlinked, renames, links, special, attributes, names, mapped, deep, ranges, user};
    for (size_t n = 0; n < sizeof parts / sizeof *parts; n++)
        parts[n]();
    printf("{\"tried\": %d}\n", tried);
    return 0;
}
