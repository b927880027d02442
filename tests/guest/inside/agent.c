/* The guest's first process: runs the scripts that arrive at a virtio-serial port, and switches the machine off when the
 * other end of the port is gone.
 *
 * A request is its length (4 bytes, little-endian) and a script for sh. The answer is the script's exit status, the
 * length of its output (4 bytes each) and the output. The output goes through a file, so that a process that a script
 * leaves behind does not hold up the answer. */
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdint.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

static int port;

static void off(void)
{
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

/* Reads all of it. With nobody at the other end a port is at its end: wait for the first byte ever, else switch off. */
static void get(void *place, size_t size)
{
    static int met;
    for (char *at = place; size;) {
        ssize_t done = read(port, at, size);
        if (done <= 0) {
            if (met)
                off();
            usleep(10000);
            continue;
        }
        met = 1;
        at += done;
        size -= done;
    }
}

static void put(const void *place, size_t size)
{
    for (const char *at = place; size;) {
        ssize_t done = write(port, at, size);
        if (done <= 0)
            off();
        at += done;
        size -= done;
    }
}

int agent(int count, char **words)
{
    glob_t found;
    (void)count, (void)words;
    while (glob("/dev/vport*p1", 0, NULL, &found)) /* the driver is told of its ports some time after it was loaded */
        usleep(10000);
    if ((port = open(found.gl_pathv[0], O_RDWR | O_CLOEXEC)) < 0)
        DIE("port");
    for (;;) {
        uint32_t size, answer[2];
        get(&size, sizeof size);
        char *script = calloc(1, size + 1);
        get(script, size);
        int out = open("/output", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        pid_t child = fork();
        if (!child) {
            setsid();
            dup2(out, 1);
            dup2(out, 2);
            execl("/bin/sh", "sh", "-c", script, NULL);
            _exit(127);
        }
        int status = 0;
        while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ; /* orphans are ours */
        off_t length = lseek(out, 0, SEEK_END);
        answer[0] = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        answer[1] = length;
        char *output = malloc(length + 1);
        if (pread(out, output, length, 0) != length)
            off();
        put(answer, sizeof answer);
        put(output, length);
        close(out);
        free(output);
        free(script);
    }
}
