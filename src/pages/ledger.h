/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <linux/userfaultfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "pages/role.h"

/*
 * Which pages restored tasks are still owed, and where they lie: a file in memory that the session writes before the
 * restore and the page service (service.h) works off. It is all the service knows, so that another process goes on
 * where one was killed: whatever is done here is either not done or done, and may be done again.
 *
 * An address space is a list of runs and a bit for each page. Placing a page clears its bit. What moves runs (mremap,
 * fork) writes a new list beside the old one and switches over in one store, with the number of the event that it was
 * done for.
 *
 * One writer of lists at a time; bits may be cleared by several threads meanwhile. Addresses in bytes, whole pages.
 */
#define LEDGER_FILE_NAME 48
#define LEDGER_FILLERS_MAX 4

enum ledger_phase {
        LEDGER_WAITING, /* CRIU has not come, or is not through: pages are given to those who ask */
        LEDGER_FILLING, /* the tasks run */
        LEDGER_ENDING,  /* the restore came to nothing: until the last task is dead */
        LEDGER_DONE,
};

enum ledger_space_state {
        SPACE_FREE,     /* of nobody (any more) */
        SPACE_EXPECTED, /* what it is owed is known, its userfaultfd has not come */
        SPACE_LIVE,
};

/* Pages that lie together, in an address space and in a file. */
struct ledger_run {
        uint64_t vaddr, n_pages;
        uint64_t position; /* of the first in the file, in pages */
        uint64_t bit;      /* of the first among those of the space */
        uint32_t file, zero;
};

struct ledger_runs {
        uint64_t offset; /* in the ledger: an array of struct ledger_run by rising address */
        uint64_t n, room;
        uint64_t event; /* the one that made it, 0: none */
};

struct ledger_space {
        uint32_t state; /* enum ledger_space_state */
        int32_t pid;    /* as the images have it; of a forked child its parent's */
        int32_t uffd;   /* in the table of descriptors that all processes of the service share */
        uint32_t current;
        struct ledger_runs runs[2];
        uint64_t bits, n_bits, bits_room; /* offset in the ledger, pages */
};

struct ledger_file {
        char name[LEDGER_FILE_NAME]; /* in the directory of the images */
        uint64_t n_pages;
        int32_t fd; /* as above; -1: not open */
        uint32_t zero;
        uint64_t here; /* offset in the ledger of a bit for each page that is in the file; 0: all are */
};

/* Pages that are still with the frozen tasks on the source: which they are there, and where they go to in a file. */
struct ledger_away {
        uint64_t image, vaddr; /* as criu/page_server.h has them */
        uint64_t n_pages, position;
        uint32_t file, zero;
};

/* A page of which a task waits until it comes: set by a worker, and by the session set free when it has come. */
struct ledger_wanted {
        uint32_t state; /* 0: free, 1: being written, 2: wanted */
        uint32_t file;
        uint64_t position;
};
#define LEDGER_WANTED_MAX 1024U

/* The beginning of the file. What a system call writes for us lies here too, so that no death can lose it. */
struct ledger_head {
        uint64_t magic;
        uint32_t phase;  /* enum ledger_phase */
        uint32_t stop;   /* the session wants it to end */
        uint32_t keep;   /* files are not emptied */
        int32_t trouble; /* errno of what does not work, 0: nothing */
        uint64_t trouble_at;
        char failure[256];      /* why the last worker that could not go on could not; "" for none */
        uint32_t workers;       /* started so far */
        int32_t keeper, worker; /* pids, for people and tests */
        int32_t root;           /* whose tree it is, as we see it; 0: not known yet */
        int32_t connection;     /* CRIU's; -1 */
        uint32_t n_files, n_spaces;
        uint64_t used;           /* end of what is taken of the file */
        uint64_t total, settled; /* pages owed at first; settled since, of children too */
        uint64_t events;         /* taken from userfaultfds */

        /* Pages on another host. An array of struct ledger_away, in the order in which they were added. */
        uint64_t away_at, n_away, away_room;
        uint64_t wanted_at;  /* array of LEDGER_WANTED_MAX; 0: nothing is away */
        uint64_t total_away; /* pages, at first */
        uint64_t arrived;    /* of them */
        uint64_t faulted;    /* times that a task had to wait for one */

        /* From CRIU: pid, or -pid of a dead task, or the word for the end; 0: nothing is being taken. */
        int32_t word;
        union {
                char bytes[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } passed; /* the descriptor that follows */

        /* The message that is being taken from a userfaultfd; an event of 0: none. */
        uint32_t event_space;
        struct uffd_msg event;

        struct role keeping, working, standing_by; /* keeper.c */
        struct role filling[LEDGER_FILLERS_MAX];   /* by threads of the worker */
};

struct page_ledger {
        uint8_t *base;
        struct ledger_head *head;
        struct ledger_file *files;
        struct ledger_space *spaces;
};

#define LEDGER_FILES_MAX (1U << 21)
#define LEDGER_SPACES_MAX (1U << 18)

/* `fd` is an empty file of ours in a tmpfs; both only map it. */
int page_ledger_create(int fd, struct page_ledger **ret, struct error *err);
int page_ledger_open(int fd, struct page_ledger **ret, struct error *err);
void page_ledger_free(struct page_ledger *ledger);
DEFINE_CLEANUP(struct page_ledger, page_ledger_free)

/* -- before the service starts: spaces one after the other, in each runs by rising address. Negative errno. */
int page_ledger_add_file(struct page_ledger *ledger, const char *name, uint64_t n_pages, uint32_t *ret);
int page_ledger_add_space(struct page_ledger *ledger, int32_t pid, uint32_t *ret);
int page_ledger_add_run(struct page_ledger *ledger, uint32_t space, uint64_t vaddr, uint64_t n_pages, uint32_t file,
                        uint64_t position);
/* The space is complete: all of it is owed. */
int page_ledger_owe(struct page_ledger *ledger, uint32_t space);

/* Pages of a file that are not in it yet; before anything is owed of them. */
int page_ledger_add_away(struct page_ledger *ledger, uint64_t image, uint64_t vaddr, uint64_t n_pages, uint32_t file,
                         uint64_t position);

/* -- what is on another host; any thread, any process */
static inline const struct ledger_away *page_ledger_away(const struct page_ledger *ledger)
{
        return (const struct ledger_away *)(const void *)(ledger->base + ledger->head->away_at);
}
/* How many pages from there on are in the file, at most `max`; 0: not that one. */
uint64_t page_ledger_here(const struct page_ledger *ledger, uint32_t file, uint64_t position, uint64_t max);
/* How many are not. */
uint64_t page_ledger_missing(const struct page_ledger *ledger, uint32_t file, uint64_t position, uint64_t max);
/* They are in the file now. How many of them were not before. */
uint64_t page_ledger_arrived(struct page_ledger *ledger, uint32_t file, uint64_t position, uint64_t n_pages);
/* A task waits for it. False: no room to say so. */
bool page_ledger_want(struct page_ledger *ledger, uint32_t file, uint64_t position);
/* The next that is wanted and not here, from *cursor (at first 0) on. False: no other. */
bool page_ledger_wanted(struct page_ledger *ledger, size_t *cursor, uint32_t *ret_file, uint64_t *ret_position);

/* Fresh bytes of the ledger, which are zero; 0: there are none. Before the service starts, or by its first thread. */
uint64_t page_ledger_take(struct page_ledger *ledger, uint64_t bytes);

/* -- what is owed */
/* The first owed page at or behind `from` and before `end`, with those that follow it in both, at most `max` pages. */
bool page_ledger_next(const struct page_ledger *ledger, uint32_t space, uint64_t from, uint64_t end, uint64_t max,
                      struct ledger_run *ret);

/* A part of a file, in pages. */
struct ledger_part {
        uint32_t file;
        uint64_t first, end;
};

/* Where a page of the space lies or lay, owed or not. False: it never came. */
bool page_ledger_where(const struct page_ledger *ledger, uint32_t space, uint64_t vaddr, uint32_t *ret_file,
                       uint64_t *ret_position);
/*
 * As page_ledger_next(), of that part alone; and where in the space it begins, seen from a page that is in it. A file
 * holds pages by rising address, so what lies together is found together; after a move some of it may be missed.
 */
bool page_ledger_next_of(const struct page_ledger *ledger, uint32_t space, const struct ledger_part *part,
                         uint64_t from, uint64_t max, struct ledger_run *ret);
uint64_t page_ledger_begin_of(const struct page_ledger *ledger, uint32_t space, const struct ledger_part *part,
                              uint64_t vaddr);

/* Pages of a file that one space less waits for. */
typedef void (*ledger_settled_fn)(uint32_t file, uint64_t position, uint64_t n_pages, void *context);
/* Nothing in that range is owed any more. `settled` hears of each page that was. Returns their number. */
uint64_t page_ledger_settle(struct page_ledger *ledger, uint32_t space, uint64_t from, uint64_t end,
                            ledger_settled_fn settled, void *context);

/* -- what happens to address spaces; nobody else may look meanwhile. Negative errno; may be repeated: 1 then. */
/* A userfaultfd came for the task with that pid, which may be owed nothing. */
int page_ledger_attach(struct page_ledger *ledger, int32_t pid, int32_t uffd, uint32_t *ret_space);
/* Owed pages in the range go to `to`. What was owed there is settled before. */
int page_ledger_move(struct page_ledger *ledger, uint32_t space, uint64_t from, uint64_t to, uint64_t length,
                     uint64_t event);
/* A child is owed what its parent is. `uffd` is the child's. */
int page_ledger_fork(struct page_ledger *ledger, uint32_t parent, int32_t uffd, uint32_t *ret_space);
