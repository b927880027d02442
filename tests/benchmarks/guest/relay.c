/* Mounts a 9P server that is behind a virtio-serial port: relay PORT DIRECTORY OPTIONS
 *
 * The kernel's client takes any two descriptors (trans=fd), but not the port's own: its driver has read and write where
 * the client needs read_iter and write_iter (kernel_read() of Linux 5.10 and later fails with EINVAL). So the client
 * gets one end of a socket pair, and two threads carry bytes between the other end and the port. They outlive the
 * mount(2) in the background and end when the file system is unmounted.
 *
 * The port hands out 4 KiB at a time, however much is there, so what is there is taken before it is passed on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIE(what) (perror(what), exit(1))
enum { ROOM = 1 << 18, TRIES = 200 };

static int port, ours;

static int wait_for(int fd, short events)
{
    struct pollfd one = {.fd = fd, .events = events};
    return poll(&one, 1, -1);
}

static void put(int fd, const char *at, ssize_t size)
{
    while (size) {
        ssize_t done = write(fd, at, size);
        if (done > 0) {
            at += done;
            size -= done;
        } else if (errno != EAGAIN || wait_for(fd, POLLOUT) < 0)
            _exit(0); /* unmounted, or the host has hung up */
    }
}

static void *answers(void *unused)
{
    static char room[ROOM];
    for (ssize_t size = 0;;) {
        ssize_t done = size < ROOM ? read(port, room + size, ROOM - size) : -1;
        if (done > 0) {
            size += done;
        } else if (size) {
            put(ours, room, size);
            size = 0;
        } else if (!done || errno != EAGAIN || wait_for(port, POLLIN) < 0)
            _exit(0);
    }
    return unused;
}

static void requests(void)
{
    static char room[ROOM];
    for (ssize_t done; (done = read(ours, room, ROOM)) > 0;)
        put(port, room, done);
    _exit(0);
}

int main(int count, char **words)
{
    int ends[2];
    if (count != 4) {
        fputs("relay PORT DIRECTORY OPTIONS\n", stderr);
        return 2;
    }
    /* Only one may have the port, and whoever had it for the mount before may be about to leave. */
    for (int left = TRIES; (port = open(words[1], O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0; left--) {
        if (errno != EBUSY || !left)
            DIE(words[1]);
        usleep(10000);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        DIE("socketpair");
    pid_t child = fork();
    if (child < 0)
        DIE("fork");
    if (!child) {
        pthread_t thread;
        ours = ends[0];
        close(ends[1]);
        setsid();
        if (pthread_create(&thread, NULL, answers, NULL))
            _exit(1);
        close(0), close(1), close(2);
        requests();
    }
    char *options;
    close(ends[0]);
    if (asprintf(&options, "trans=fd,rfdno=%d,wfdno=%d,%s", ends[1], ends[1], words[3]) < 0)
        DIE("asprintf");
    if (mount("fd", words[2], "9p", 0, options))
        DIE("mount");
    return 0;
}
