/* Locks of whole files: lock flock|fcntl FILE try|wait|hold
 *
 *   ask    whether fcntl(F_GETLK) says that it can be had
 *   try    whether it can be had now; it is given back
 *   wait   waits until it is had; it is given back
 *   hold   as try, and a process in the background keeps it until it is killed; its number is told */
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int take(const char *kind, int fd, const char *how)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int wait = !strcmp(how, "wait");
    if (!strcmp(how, "ask")) {
        if (fcntl(fd, F_GETLK, &all))
            return -1;
        errno = EAGAIN;
        return all.l_type == F_UNLCK ? 0 : -1;
    }
    if (!strcmp(kind, "flock"))
        return flock(fd, LOCK_EX | (wait ? 0 : LOCK_NB));
    return fcntl(fd, wait ? F_SETLKW : F_SETLK, &all);
}

int lock(int count, char **words)
{
    if (count != 4)
        return 2;
    const char *how = words[3];
    int told[2];
    if (pipe(told))
        DIE("pipe");
    pid_t child = fork(); /* record locks are a process's own: who holds one must take it himself */
    if (!child) {
        int fd = open(words[2], O_RDWR);
        int error = fd < 0 || take(words[1], fd, how) ? errno : 0;
        if (write(told[1], &error, sizeof error) < 0)
            _exit(2);
        close(told[1]);
        close(0), close(1), close(2);
        while (!error && !strcmp(how, "hold"))
            pause();
        _exit(0);
    }
    int error;
    close(told[1]);
    if (read(told[0], &error, sizeof error) != sizeof error)
        return 2;
    int busy = error == EAGAIN || error == EACCES;
    printf("{\"got\": %s, \"error\": %d, \"pid\": %d}\n", error ? "false" : "true", busy ? 0 : error, child);
    return 0;
}
