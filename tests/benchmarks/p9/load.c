/*
 * A 9P2000.L client that does one kind of work as fast as a server lets it, and says how long that took.
 *
 *   load PORT ANAME getattr DIRECTORY FILES COUNT DEPTH CLIENTS    COUNT requests of each client
 *   load PORT ANAME walk DIRECTORY FILES COUNT DEPTH               COUNT times walk + getattr + clunk
 *   load PORT ANAME readdir DIRECTORY FILES TIMES                  the whole directory, so many times
 *   load PORT ANAME list DIRECTORY FILES TIMES DEPTH               readdir, then walk + getattr + clunk of each entry
 *   load PORT ANAME fids DIRECTORY FILES COUNT DEPTH               COUNT fids, walked to the files in turn
 *   load PORT ANAME read|write FILE BYTES DEPTH                    from the beginning on
 *
 * DIRECTORY and FILE are in the root; in DIRECTORY there are FILES files, file00000, file00001 and so on, and nothing
 * else. The result is one line of JSON on standard output. "fids" stops twice, with a line "attached" and then with its
 * result, until a byte comes on standard input: so that somebody can look at the server. Every reply's type, tag and
 * size are checked. Whatever is wrong ends the program with status 1 and a sentence.
 *
 * It must not be the bottleneck: frames are made beforehand or in place, all replies that one recv() brought are
 * looked at before all the requests that follow from them leave with one send(), and nothing is allocated meanwhile.
 * No request is sent before the answer that it depends on has come: a server may handle requests in any order, and
 * Linux does not do it either.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
	RLERROR = 7, TLOPEN = 12, TGETATTR = 24, TREADDIR = 40, TVERSION = 100, TATTACH = 104, TWALK = 110, TREAD = 116,
	TWRITE = 118, TCLUNK = 120,
	HEADER = 7,
	READ_HEADER = 11, /* of Rread, and a whole Rwrite */
	OVERHEAD = 24, /* P9_IOHDRSZ, what Linux takes off msize; also what an entry of a directory has beside its name */
	GETATTR_REPLY = 160, GETATTR_BASIC = 0x7ff, LOOKUP_MASK = 0x17ff, STAT_MASK = 0x3fff, /* as Linux asks */
	MSIZE = 1 << 20, MOST_DEPTH = 64, FRAME = 512, NAME = 32, FIDS = 32, SECONDS = 60,
	ROOT = 0, WHERE = 1, FIRST = 16, /* fids */
};

struct slot { /* a tag */
	unsigned char frame[FRAME];
	unsigned char busy;
	int step;
};

struct client {
	int fd;
	uint32_t msize;
	unsigned char *in, *out; /* received and not looked at yet, written and not sent yet */
	size_t from, to, room, waiting;
	struct slot slots[MOST_DEPTH];
	unsigned long left, started; /* items: to be started, started */
	int (*next)(struct client *, struct slot *); /* makes the slot's next frame; 0 when there is no more */
};

static const char *port_word, *aname;
static char (*names)[NAME];
static size_t name_count;

static void die(const char *format, ...)
{
	va_list words;

	va_start(words, format);
	fputs("load: ", stderr);
	vfprintf(stderr, format, words);
	fputc('\n', stderr);
	_exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Integers are little-endian on the wire; so is every machine that this is compiled on. */
static unsigned char *put16(unsigned char *at, uint16_t value) { memcpy(at, &value, 2); return at + 2; }
static unsigned char *put32(unsigned char *at, uint32_t value) { memcpy(at, &value, 4); return at + 4; }
static unsigned char *put64(unsigned char *at, uint64_t value) { memcpy(at, &value, 8); return at + 8; }
static uint16_t get16(const unsigned char *at) { uint16_t value; memcpy(&value, at, 2); return value; }
static uint32_t get32(const unsigned char *at) { uint32_t value; memcpy(&value, at, 4); return value; }
static uint64_t get64(const unsigned char *at) { uint64_t value; memcpy(&value, at, 8); return value; }

static unsigned char *puts9(unsigned char *at, const char *text)
{
	size_t size = strlen(text);

	at = put16(at, size);
	memcpy(at, text, size);
	return at + size;
}

static unsigned char *begin(unsigned char *frame, int type, uint16_t tag)
{
	frame[4] = type;
	return put16(frame + 5, tag);
}

static void finish(unsigned char *frame, unsigned char *end) { put32(frame, end - frame); }

/* Requests ------------------------------------------------------------------------------------------------------ */

static void walk(unsigned char *frame, uint16_t tag, uint32_t fid, uint32_t newfid, const char *name)
{
	unsigned char *at = begin(frame, TWALK, tag);

	at = put16(put32(put32(at, fid), newfid), 1);
	finish(frame, puts9(at, name));
}

static void getattr(unsigned char *frame, uint16_t tag, uint32_t fid, uint64_t mask)
{
	finish(frame, put64(put32(begin(frame, TGETATTR, tag), fid), mask));
}

static void clunk(unsigned char *frame, uint16_t tag, uint32_t fid)
{
	finish(frame, put32(begin(frame, TCLUNK, tag), fid));
}

/* Moving bytes -------------------------------------------------------------------------------------------------- */

static void send_all(struct client *c, struct iovec *parts, int count)
{
	while (count) {
		ssize_t sent = writev(c->fd, parts, count);

		if (sent <= 0)
			die("cannot send: %s", strerror(errno));
		for (; count && (size_t)sent >= parts->iov_len; parts++, count--)
			sent -= parts->iov_len;
		if (count) {
			parts->iov_base = (char *)parts->iov_base + sent;
			parts->iov_len -= sent;
		}
	}
}

static void flush(struct client *c)
{
	struct iovec part = {c->out, c->waiting};

	if (c->waiting)
		send_all(c, &part, 1);
	c->waiting = 0;
}

static ssize_t receive(struct client *c, void *where, size_t size, int flags)
{
	ssize_t got = recv(c->fd, where, size, flags);

	if (got == 0)
		die("the server has closed the connection");
	if (got < 0 && errno == EAGAIN)
		die("no reply for %d seconds", SECONDS);
	if (got < 0)
		die("cannot receive: %s", strerror(errno));
	return got;
}

static int complete(struct client *c)
{
	size_t have = c->to - c->from;
	uint32_t size = have >= 4 ? get32(c->in + c->from) : HEADER;

	if (size < HEADER || size > c->msize)
		die("a reply claims to have %u bytes", size);
	return have >= 4 && have >= size;
}

/* The next whole reply; it is good until the next call. */
static unsigned char *reply(struct client *c)
{
	unsigned char *frame;

	while (!complete(c)) {
		if (c->from == c->to)
			c->from = c->to = 0;
		if (c->room - c->to < c->msize) {
			memmove(c->in, c->in + c->from, c->to - c->from);
			c->to -= c->from;
			c->from = 0;
		}
		c->to += receive(c, c->in + c->to, c->room - c->to, 0);
	}
	frame = c->in + c->from;
	c->from += get32(frame);
	return frame;
}

/* Ends the program unless `frame` answers the request `type` with `tag`. */
static void check(const struct client *c, const unsigned char *frame, int type, uint16_t tag)
{
	uint32_t size = get32(frame);

	if (frame[4] == RLERROR)
		die("request %d was answered with error %u", type, get32(frame + HEADER));
	if (frame[4] != type + 1)
		die("request %d was answered with type %d", type, frame[4]);
	if (get16(frame + 5) != tag)
		die("request %d with tag %u was answered with tag %u", type, tag, get16(frame + 5));
	if (size >= c->msize) /* Linux 6.1 refuses a reply as large as msize */
		die("request %d was answered with %u bytes where msize is %u", type, size, c->msize);
	if (type == TGETATTR && (size != GETATTR_REPLY || (get64(frame + HEADER) & GETATTR_BASIC) != GETATTR_BASIC))
		die("a getattr was answered with %u bytes, valid %#lx", size, (unsigned long)get64(frame + HEADER));
	if (type == TWALK && (size != HEADER + 2 + 13 || get16(frame + HEADER) != 1))
		die("a walk of one name was answered with %u bytes", size);
	if (type == TCLUNK && size != HEADER)
		die("a clunk was answered with %u bytes", size);
}

/* One request and its answer. */
static unsigned char *call(struct client *c, unsigned char *frame)
{
	struct iovec part = {frame, get32(frame)};
	unsigned char *answer;

	send_all(c, &part, 1);
	answer = reply(c);
	check(c, answer, frame[4], get16(frame + 5));
	return answer;
}

/* Keeps up to `depth` requests under way until no slot has a next one. */
static void pipeline(struct client *c, int depth)
{
	int active = 0;

	for (int tag = 0; tag < depth; tag++) {
		struct slot *slot = c->slots + tag;

		slot->step = 0;
		slot->busy = c->next(c, slot);
		if (slot->busy) {
			memcpy(c->out + c->waiting, slot->frame, get32(slot->frame));
			c->waiting += get32(slot->frame);
			active++;
		}
	}
	flush(c);
	while (active) {
		do {
			unsigned char *frame = reply(c);
			uint16_t tag = get16(frame + 5);
			struct slot *slot = c->slots + tag;

			if (tag >= depth || !slot->busy)
				die("a reply of type %d has tag %u, which is not in use", frame[4], tag);
			check(c, frame, slot->frame[4], tag);
			slot->busy = c->next(c, slot);
			if (slot->busy) {
				memcpy(c->out + c->waiting, slot->frame, get32(slot->frame));
				c->waiting += get32(slot->frame);
			} else {
				active--;
			}
		} while (complete(c));
		flush(c);
	}
}

/* Beginnings ---------------------------------------------------------------------------------------------------- */

static struct client *attach(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port_word))};
	struct timeval limit = {SECONDS, 0};
	struct client *c = calloc(1, sizeof *c);
	unsigned char frame[8192], *at, *answer;
	int on = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
		die("cannot connect to port %s: %s", port_word, strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	c->room = 2 * MSIZE;
	c->in = malloc(c->room);
	c->out = malloc(MOST_DEPTH * FRAME);
	c->msize = MSIZE;
	at = begin(frame, TVERSION, 0xFFFF);
	finish(frame, puts9(put32(at, MSIZE), "9P2000.L"));
	answer = call(c, frame);
	c->msize = get32(answer + HEADER);
	if (c->msize < 4096 || c->msize > MSIZE || memcmp(answer + HEADER + 4, "\b\0" "9P2000.L", 10))
		die("9P2000.L was not agreed, or an msize of %u", c->msize);
	at = put32(put32(begin(frame, TATTACH, 0), ROOT), 0xFFFFFFFF);
	at = put32(puts9(puts9(at, ""), aname), 0);
	finish(frame, at);
	call(c, frame);
	return c;
}

static void go(struct client *c, uint32_t from, uint32_t to, const char *name)
{
	unsigned char frame[FRAME];

	walk(frame, 0, from, to, name);
	call(c, frame);
}

static void open_fid(struct client *c, uint32_t fid, uint32_t flags)
{
	unsigned char frame[FRAME];

	finish(frame, put32(put32(begin(frame, TLOPEN, 0), fid), flags));
	call(c, frame);
}

/* Reads the directory of an open fid into `names`. */
static void read_directory(struct client *c, uint32_t fid)
{
	unsigned char frame[FRAME];
	uint64_t offset = 0;
	size_t entries = 0, found = 0;

	for (;;) {
		unsigned char *at, *end;
		uint32_t count = c->msize - OVERHEAD;

		finish(frame, put32(put64(put32(begin(frame, TREADDIR, 0), fid), offset), count));
		at = call(c, frame) + HEADER;
		count = get32(at);
		if (count > c->msize - OVERHEAD)
			die("a readdir brought %u bytes", count);
		if (!count)
			break;
		for (at += 4, end = at + count; at < end; entries++) {
			size_t left = end - at, size = left < OVERHEAD ? left : get16(at + 22);

			if (left < OVERHEAD + size)
				die("a readdir brought part of an entry");
			offset = get64(at + 13);
			at += OVERHEAD;
			if (!(size <= 2 && !memcmp(at, "..", size))) {
				if (size >= NAME || found == name_count)
					die("the directory has a long name, or too many");
				memcpy(names[found], at, size);
				names[found++][size] = 0;
			}
			at += size;
		}
	}
	if (found != name_count || entries != found + 2)
		die("of %zu files %zu were listed, and %zu other entries", name_count, found, entries - found);
}

/* The names as they must be. */
static void make_names(unsigned long count)
{
	names = calloc(count, sizeof *names);
	for (name_count = 0; name_count < count; name_count++)
		snprintf(names[name_count], NAME, "file%05zu", name_count);
}

/* Works --------------------------------------------------------------------------------------------------------- */

static void result(const struct client *c, unsigned long count, double seconds)
{
	printf("{\"count\": %lu, \"seconds\": %.6f, \"msize\": %u}\n", count, seconds, c->msize);
	fflush(stdout);
}

static int next_getattr(struct client *c, struct slot *slot)
{
	if (!c->left)
		return 0;
	c->left--;
	put32(slot->frame + HEADER, FIRST + c->started++ % FIDS);
	return 1;
}

struct thread {
	pthread_t id;
	struct client *client;
	pthread_barrier_t *start;
	int depth;
};

static void *getattr_thread(void *argument)
{
	struct thread *thread = argument;

	pthread_barrier_wait(thread->start);
	pipeline(thread->client, thread->depth);
	return NULL;
}

static void work_getattr(const char *directory, unsigned long count, int depth, int clients)
{
	struct thread *threads = calloc(clients, sizeof *threads);
	pthread_barrier_t start;
	double began;

	pthread_barrier_init(&start, NULL, clients + 1);
	for (int i = 0; i < clients; i++) {
		struct client *c = attach();

		go(c, ROOT, WHERE, directory);
		for (int fid = 0; fid < FIDS; fid++)
			go(c, WHERE, FIRST + fid, names[fid % name_count]);
		for (int tag = 0; tag < depth; tag++)
			getattr(c->slots[tag].frame, tag, 0, STAT_MASK);
		c->left = count;
		c->next = next_getattr;
		threads[i] = (struct thread){.client = c, .start = &start, .depth = depth};
		if (pthread_create(&threads[i].id, NULL, getattr_thread, threads + i))
			die("cannot start a thread");
	}
	pthread_barrier_wait(&start);
	began = now();
	for (int i = 0; i < clients; i++)
		pthread_join(threads[i].id, NULL);
	result(threads[0].client, count * clients, now() - began);
}

/* walk, getattr, clunk: one after the other for each item. */
static int next_look_up(struct client *c, struct slot *slot)
{
	uint16_t tag = slot - c->slots;
	uint32_t fid = FIRST + tag;

	switch (slot->step++) {
	case 1:
		getattr(slot->frame, tag, fid, LOOKUP_MASK);
		return 1;
	case 2:
		clunk(slot->frame, tag, fid);
		return 1;
	}
	if (!c->left)
		return 0;
	c->left--;
	slot->step = 1;
	walk(slot->frame, tag, WHERE, fid, names[c->started++ % name_count]);
	return 1;
}

static void work_walk(const char *directory, unsigned long count, int depth)
{
	struct client *c = attach();
	double began;

	go(c, ROOT, WHERE, directory);
	c->left = count;
	c->next = next_look_up;
	began = now();
	pipeline(c, depth);
	result(c, count, now() - began);
}

static void work_readdir(const char *directory, unsigned long times, int depth)
{
	struct client *c = attach();
	unsigned long entries = 0;
	double began;

	go(c, ROOT, WHERE, directory);
	go(c, ROOT, WHERE + 1, directory);
	open_fid(c, WHERE + 1, 0200000);
	began = now();
	for (unsigned long i = 0; i < times; i++) {
		read_directory(c, WHERE + 1);
		entries += name_count;
		if (depth) {
			c->left = name_count;
			c->next = next_look_up;
			pipeline(c, depth);
		}
	}
	result(c, entries, now() - began);
}

static void check_word(const unsigned char *data, uint64_t offset, uint64_t index)
{
	if (get64(data + index) != (offset + index) / 8)
		die("wrong data at %lu", (unsigned long)(offset + index));
}

/* The file's eight-byte words are their own numbers; looked at, and written, are the first and the last of a message. */
static void work_data(int type, const char *file, uint64_t bytes, int depth)
{
	struct client *c = attach();
	uint32_t payload = (c->msize - OVERHEAD) & ~7u, sizes[MOST_DEPTH];
	uint64_t offsets[MOST_DEPTH], sent = 0, done = 0;
	unsigned char *data = malloc(payload), frame[FRAME];
	uint16_t tag = 0;
	double began;

	go(c, ROOT, WHERE, file);
	open_fid(c, WHERE, type == TREAD ? 0 : 1);
	began = now();
	for (int under_way = 0; done < bytes;) {
		struct iovec parts[2] = {{frame, 0}, {data, 0}};
		unsigned char *at;

		for (; under_way < depth && sent < bytes; under_way++) {
			/* The tags come back in any order, but until all are out each is new; then the freed one is reused. */
			if (sent < (uint64_t)payload * depth)
				tag = under_way;
			offsets[tag] = sent;
			sizes[tag] = bytes - sent < payload ? bytes - sent : payload;
			c->slots[tag].busy = 1;
			at = put64(put32(begin(frame, type, tag), WHERE), sent);
			at = put32(at, sizes[tag]);
			parts[0] = (struct iovec){frame, at - frame};
			parts[1] = (struct iovec){data, type == TWRITE ? sizes[tag] : 0};
			put32(frame, parts[0].iov_len + parts[1].iov_len);
			if (type == TWRITE) {
				put64(data, sent / 8);
				put64(data + sizes[tag] - 8, (sent + sizes[tag]) / 8 - 1);
			}
			sent += sizes[tag];
			send_all(c, parts, type == TWRITE ? 2 : 1);
		}
		receive(c, frame, READ_HEADER, MSG_WAITALL);
		tag = get16(frame + 5);
		if (tag >= depth || !c->slots[tag].busy)
			die("a reply of type %d has tag %u, which is not in use", frame[4], tag);
		check(c, frame, type, tag);
		if (get32(frame + HEADER) != sizes[tag])
			die("%u bytes at %lu were answered with %u", sizes[tag], (unsigned long)offsets[tag],
			    get32(frame + HEADER));
		if (get32(frame) != READ_HEADER + (type == TREAD ? sizes[tag] : 0))
			die("a reply of type %d has %u bytes", frame[4], get32(frame));
		if (type == TREAD) {
			if (receive(c, data, sizes[tag], MSG_WAITALL) != (ssize_t)sizes[tag])
				die("the data stops short");
			check_word(data, offsets[tag], 0);
			check_word(data, offsets[tag], sizes[tag] - 8);
		}
		c->slots[tag].busy = 0;
		done += sizes[tag];
		under_way--;
	}
	result(c, bytes, now() - began);
}

static int next_fid(struct client *c, struct slot *slot)
{
	if (!c->left)
		return 0;
	c->left--;
	walk(slot->frame, slot - c->slots, WHERE, FIRST + c->started, names[c->started % name_count]);
	c->started++;
	return 1;
}

static void wait_for_a_byte(void)
{
	char byte;

	if (read(0, &byte, 1) < 0)
		die("cannot read standard input");
}

static void work_fids(const char *directory, unsigned long count, int depth)
{
	struct client *c = attach();
	double began;

	go(c, ROOT, WHERE, directory);
	c->left = count;
	c->next = next_fid;
	puts("attached");
	fflush(stdout);
	wait_for_a_byte();
	began = now();
	pipeline(c, depth);
	result(c, count, now() - began);
	wait_for_a_byte();
}

static unsigned long number(char **words, int count, int index)
{
	unsigned long value = index < count ? strtoul(words[index], NULL, 10) : 0;

	if (!value)
		die("word %d must be a number above 0", index);
	return value;
}

static int depth_of(char **words, int count, int index)
{
	unsigned long value = number(words, count, index);

	if (value > MOST_DEPTH)
		die("at most %d requests can be under way", MOST_DEPTH);
	return value;
}

int main(int count, char **words)
{
	const char *work = count > 5 ? words[3] : "", *where = count > 5 ? words[4] : "";

	signal(SIGPIPE, SIG_IGN);
	port_word = words[1];
	aname = words[2];
	if (!strcmp(work, "read") || !strcmp(work, "write")) {
		work_data(*work == 'r' ? TREAD : TWRITE, where, number(words, count, 5), depth_of(words, count, 6));
		return 0;
	}
	make_names(number(words, count, 5));
	if (!strcmp(work, "getattr"))
		work_getattr(where, number(words, count, 6), depth_of(words, count, 7), number(words, count, 8));
	else if (!strcmp(work, "walk"))
		work_walk(where, number(words, count, 6), depth_of(words, count, 7));
	else if (!strcmp(work, "readdir"))
		work_readdir(where, number(words, count, 6), 0);
	else if (!strcmp(work, "list"))
		work_readdir(where, number(words, count, 6), depth_of(words, count, 7));
	else if (!strcmp(work, "fids"))
		work_fids(where, number(words, count, 6), depth_of(words, count, 7));
	else
		die("usage: load PORT ANAME WORK WHERE COUNT...; see the head of load.c");
	return 0;
}
