/* Mounts with trans=fd, on descriptors that mount(8) does not make: attach AT OPTIONS WHAT...
 *
 *   vsock CID PORT      a connected socket
 *   pipes COMMAND...    two pipes, to the standard input and from the standard output of a program that is started */
#include "guest.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

static int by_vsock(const char *cid, const char *port)
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = atoi(cid), .svm_port = atoi(port)};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address))
        DIE("vsock");
    return fd;
}

static void spawn(char **command, int *reader, int *writer)
{
    int there[2], back[2];
    if (pipe2(there, O_CLOEXEC) || pipe2(back, O_CLOEXEC))
        DIE("pipe");
    pid_t child = fork();
    if (child < 0)
        DIE("fork");
    if (!child) {
        dup2(there[0], 0);
        dup2(back[1], 1);
        execvp(command[0], command);
        _exit(127);
    }
    close(there[0]), close(back[1]);
    *reader = back[0], *writer = there[1];
}

int attach(int count, char **words)
{
    int reader, writer;
    if (count == 6 && !strcmp(words[3], "vsock"))
        reader = writer = by_vsock(words[4], words[5]);
    else if (count > 4 && !strcmp(words[3], "pipes"))
        spawn(words + 4, &reader, &writer);
    else
        return 2;
    char *options;
    if (asprintf(&options, "trans=fd,rfdno=%d,wfdno=%d,%s", reader, writer, words[2]) < 0)
        DIE("asprintf");
    if (mount("fd", words[1], "9p", 0, options))
        DIE("mount");
    return 0;
}
