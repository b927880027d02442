/* One static program with everything that a guest runs besides busybox; its answers are lines of JSON. */
#include "guest.h"
#include <string.h>

static const struct { const char *name; int (*run)(int, char **); } programs[] = {
    {"agent", agent}, {"attach", attach}, {"contract", contract}, {"list", list}, {"lock", lock}, {"scan", scan},
};

int main(int count, char **words)
{
    for (size_t n = 0; count > 1 && n < sizeof programs / sizeof *programs; n++)
        if (!strcmp(words[1], programs[n].name))
            return programs[n].run(count - 1, words + 1);
    fputs("guest: no such program\n", stderr);
    return 2;
}
