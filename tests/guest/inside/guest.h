/* What the programs in a guest have in common; main.c runs them by name. */
#ifndef GUEST_H
#define GUEST_H

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>

int agent(int count, char **words);
int attach(int count, char **words);
int contract(int count, char **words);
int list(int count, char **words);
int lock(int count, char **words);
int scan(int count, char **words);

/* Prints `text` as a JSON string of hexadecimal digits: names are bytes, JSON's strings are not. */
static inline void print_hex(const char *text)
{
    putchar('"');
    for (const unsigned char *byte = (const unsigned char *)text; *byte; byte++)
        printf("%02x", *byte);
    putchar('"');
}

/* Ends the program: what it needs did not work. */
#define DIE(what) (perror(what), exit(2))

#endif
