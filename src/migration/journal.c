/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "migration/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sha2.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "migration/handover.h"

#define SUM_DIGITS 16
#define SUM_BEGIN ",\"sum\":\""
#define SUM_END "\"}"
#define SUM_SIZE (sizeof(SUM_BEGIN) - 1 + SUM_DIGITS + sizeof(SUM_END) - 1)

/* Enough for the handover's own records and some hundred notes beside them. */
#define RESERVED (256 * 1024)

struct journal {
        int fd;
        off_t size;        /* of what is good; the file may be longer by a torn line */
        bool torn;         /* it is */
        bool broken;       /* nothing is known about the file any more */
        json_t *entries;   /* array, in order */
        const char *state; /* inside the entries */
};

void journal_free(struct journal *journal)
{
        if (!journal)
                return;
        if (journal->fd >= 0)
                (void)close(journal->fd);
        json_decref(journal->entries);
        free(journal);
}

/* -- lines ------------------------------------------------------------------------------------------------------- */

/* The sum of a line, given as the body without its closing brace. */
static void line_sum(const char *body, size_t size, char ret[static SUM_DIGITS + 1])
{
        static const char digits[] = "0123456789abcdef";
        uint8_t hash[SHA256_DIGEST_LENGTH];
        SHA2_CTX context;

        SHA256Init(&context);
        SHA256Update(&context, (const uint8_t *)body, size);
        SHA256Update(&context, (const uint8_t *)"}", 1);
        SHA256Final(hash, &context);
        for (size_t i = 0; i < SUM_DIGITS / 2; i++) {
                ret[2 * i] = digits[hash[i] >> 4];
                ret[2 * i + 1] = digits[hash[i] & 15];
        }
        ret[SUM_DIGITS] = '\0';
}

static bool record_is_valid(const char *record)
{
        size_t length = record ? strnlen(record, JOURNAL_RECORD_MAX + 1) : 0;

        return length > 0 && length <= JOURNAL_RECORD_MAX &&
               strspn(record, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == length;
}

/* A line without its newline. -EBADMSG when it is not one of ours, or not the one that has to follow. */
static int line_parse(const char *line, size_t size, size_t seq, json_t **ret)
{
        char sum[SUM_DIGITS + 1];

        if (size + 1 > JOURNAL_LINE_MAX || size <= SUM_SIZE)
                return -EBADMSG;
        const char *tail = line + size - SUM_SIZE;
        const char *digits = tail + sizeof(SUM_BEGIN) - 1;
        if (memcmp(tail, SUM_BEGIN, sizeof(SUM_BEGIN) - 1) != 0 ||
            memcmp(digits + SUM_DIGITS, SUM_END, sizeof(SUM_END) - 1) != 0)
                return -EBADMSG;
        line_sum(line, size - SUM_SIZE, sum);
        if (memcmp(digits, sum, SUM_DIGITS) != 0)
                return -EBADMSG;

        json_t *entry = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
        const json_t *number = json_object_get(entry, "seq");
        if (!json_is_object(entry) || !json_is_integer(number) || json_integer_value(number) != (json_int_t)seq ||
            !json_is_integer(json_object_get(entry, "time")) ||
            !record_is_valid(json_string_value(json_object_get(entry, "record")))) {
                json_decref(entry);
                return -EBADMSG;
        }
        *ret = entry;
        return 0;
}

/* The entry as a line with its newline. */
static int line_format(const json_t *entry, char **ret, size_t *ret_size)
{
        AUTO_FREE char *body = json_dumps(entry, JSON_COMPACT | JSON_PRESERVE_ORDER);
        AUTO_FREE char *line = NULL;
        char sum[SUM_DIGITS + 1];

        if (!body)
                return -ENOMEM;
        size_t size = strlen(body);
        if (size < 2 || size - 1 + SUM_SIZE + 1 > JOURNAL_LINE_MAX)
                return -E2BIG;
        line_sum(body, size - 1, sum);
        line = malloc(size + SUM_SIZE + 2);
        if (!line)
                return -ENOMEM;
        body[size - 1] = '\0';
        int n = snprintf(line, size + SUM_SIZE + 2, "%s" SUM_BEGIN "%s" SUM_END "\n", body, sum);
        *ret_size = (size_t)n;
        *ret = TAKE_PTR(line);
        return 0;
}

/* What could not be read again (text with NULs, …) is not written. */
static int line_check(const char *line, size_t size, size_t seq)
{
        json_t *entry;

        int r = line_parse(line, size - 1, seq, &entry);
        if (r == 0)
                json_decref(entry);
        return r == -EBADMSG ? -EINVAL : r;
}

/* -- replay ------------------------------------------------------------------------------------------------------ */

static void remember(struct journal *journal, const json_t *entry)
{
        const char *record = json_string_value(json_object_get(entry, "record"));

        if (handover_is_record(record))
                journal->state = record;
}

/* All lines of the text; *ret_line is the number of the damaged one. */
static int replay(struct journal *journal, const char *text, size_t size, size_t *ret_line)
{
        size_t at = 0;

        while (at < size) {
                const char *line = text + at;
                const char *end = memchr(line, '\n', size - at);
                size_t length = end ? (size_t)(end - line) : size - at;
                const bool last = at + length + 1 >= size;
                json_t *entry;

                *ret_line = json_array_size(journal->entries) + 1;
                if (!end || (last && memchr(line, '\0', length))) {
                        journal->torn = true;
                        break;
                }
                int r = line_parse(line, length, *ret_line, &entry);
                if (r < 0)
                        return r;
                if (json_array_append_new(journal->entries, entry) < 0)
                        return -ENOMEM;
                remember(journal, entry);
                at += length + 1;
        }
        journal->size = (off_t)at;
        return 0;
}

static int journal_new(struct journal **ret)
{
        struct journal *journal = calloc(1, sizeof(*journal));

        if (!journal)
                return -ENOMEM;
        journal->fd = -1;
        journal->entries = json_array();
        if (!journal->entries) {
                journal_free(journal);
                return -ENOMEM;
        }
        *ret = journal;
        return 0;
}

/* -- files ------------------------------------------------------------------------------------------------------- */

static int sync_directory_of(const char *path)
{
        char directory[PATH_MAX];
        const char *slash = strrchr(path, '/');
        size_t length = slash ? (size_t)(slash - path) : 0;

        if (length >= sizeof(directory))
                return -ENAMETOOLONG;
        if (length)
                memcpy(directory, path, length);
        else
                directory[length++] = slash ? '/' : '.';
        directory[length] = '\0';

        AUTO_FD int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
                return -errno;
        return 0;
}

int journal_create(const char *path, struct journal **ret, struct error *err)
{
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;

        int r = journal_new(&journal);
        if (r < 0)
                return error_errno(err, -r, "cannot create the record %s", path);
        journal->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (journal->fd < 0)
                return error_errno(err, errno, "cannot create the record %s", path);

        /* A file system that cannot do it is no reason not to migrate; one that is full already is. */
        if (flock(journal->fd, LOCK_EX | LOCK_NB) < 0 ||
            (fallocate(journal->fd, FALLOC_FL_KEEP_SIZE, 0, RESERVED) < 0 && errno == ENOSPC) || fsync(journal->fd) < 0)
                r = -errno;
        else
                r = sync_directory_of(path);
        if (r < 0) {
                (void)unlink(path);
                return error_errno(err, -r, "cannot create the record %s", path);
        }
        *ret = TAKE_PTR(journal);
        return 0;
}

static int read_all(int fd, char **ret, size_t *ret_size)
{
        AUTO_FREE char *text = NULL;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EBADMSG;
        if (st.st_size > JOURNAL_SIZE_MAX)
                return -EFBIG;
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return -ENOMEM;
        ssize_t n = fd_read_full(fd, text, (size_t)st.st_size);
        if (n < 0)
                return (int)n;
        *ret = TAKE_PTR(text);
        *ret_size = (size_t)n;
        return 0;
}

int journal_open(const char *path, struct journal **ret, struct error *err)
{
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        AUTO_FREE char *text = NULL;
        size_t size = 0, line = 0;

        int r = journal_new(&journal);
        if (r < 0)
                return error_errno(err, -r, "cannot open the record %s", path);
        journal->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (journal->fd < 0)
                return error_errno(err, errno, "cannot open the record %s", path);
        if (flock(journal->fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? error_set(err, EBUSY, "the record %s is in use by another process", path)
                                            : error_errno(err, errno, "cannot lock the record %s", path);
        r = read_all(journal->fd, &text, &size);
        if (r < 0)
                return error_errno(err, -r, "cannot read the record %s", path);
        r = replay(journal, text, size, &line);
        if (r < 0)
                return error_errno(err, -r, "the record %s is damaged in line %zu", path, line);
        *ret = TAKE_PTR(journal);
        return 0;
}

int journal_peek_state(const char *path, char *ret, size_t size)
{
        CLEANUP(journal_free_ptr) struct journal *journal = NULL;
        AUTO_FREE char *text = NULL;
        size_t text_size = 0, line = 0;

        AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
                return -errno;
        int r = journal_new(&journal);
        if (r == 0)
                r = read_all(fd, &text, &text_size);
        if (r == 0)
                r = replay(journal, text, text_size, &line);
        if (r < 0)
                return r;
        const char *state = journal->state ? journal->state : "";
        /* Its owner may be in the middle of making it durable; whoever acts on what we say must not be faster. */
        if (*state && fdatasync(fd) < 0)
                return -errno;
        if (strlen(state) >= size)
                return -ENAMETOOLONG;
        memcpy(ret, state, strlen(state) + 1);
        return 0;
}

/* -- appending --------------------------------------------------------------------------------------------------- */

/* The file ends with the last good line again, also after a crash. */
static int cut_tail(struct journal *journal)
{
        if (ftruncate(journal->fd, journal->size) < 0 || fdatasync(journal->fd) < 0) {
                journal->broken = true;
                return -EIO;
        }
        journal->torn = false;
        return 0;
}

static int write_line(struct journal *journal, const char *line, size_t size)
{
        if (journal->torn) {
                int r = cut_tail(journal);
                if (r < 0)
                        return r;
        }
        if (lseek(journal->fd, journal->size, SEEK_SET) < 0)
                return -errno;
        int r = fd_write_all(journal->fd, line, size);
        if (r == 0 && fdatasync(journal->fd) < 0)
                r = -errno;
        if (r < 0) {
                /* It may be on the disk or not: make sure that it is not. */
                journal->torn = true;
                return cut_tail(journal) < 0 ? -EIO : r;
        }
        journal->size += (off_t)size;
        return 0;
}

static int make_entry(const struct journal *journal, const char *record, const json_t *fields, json_t **ret)
{
        static const char *const own[] = {"seq", "time", "record", "sum"};

        if (!record_is_valid(record) || (fields && !json_is_object(fields)))
                return -EINVAL;
        for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
                if (json_object_get(fields, own[i]))
                        return -EINVAL;
        json_t *entry = json_pack("{s:I, s:I, s:s}", "seq", (json_int_t)json_array_size(journal->entries) + 1, "time",
                                  (json_int_t)clock_wall_ms(), "record", record);
        /* A deep copy: what was recorded does not change when the caller's object does. */
        json_t *copy = fields ? json_deep_copy(fields) : NULL;
        if (!entry || (fields && (!copy || json_object_update(entry, copy) < 0))) {
                json_decref(entry);
                json_decref(copy);
                return -ENOMEM;
        }
        json_decref(copy);
        *ret = entry;
        return 0;
}

int journal_append(struct journal *journal, const char *record, const json_t *fields, struct error *err)
{
        AUTO_FREE char *line = NULL;
        json_t *entry;
        size_t size;

        if (journal->broken)
                return error_set(err, EIO, "the record could not be written before and is not used any more");
        int r = make_entry(journal, record, fields, &entry);
        if (r < 0)
                return error_errno(err, -r, "cannot make the record %s", record ? record : "?");

        /* Into memory first, so that nothing can fail once it is durable. */
        size_t at = json_array_size(journal->entries);
        if (json_array_append_new(journal->entries, entry) < 0)
                return error_set(err, ENOMEM, "out of memory");
        r = line_format(entry, &line, &size);
        if (r == 0)
                r = line_check(line, size, at + 1);
        if (r == 0 && (size_t)journal->size + size > JOURNAL_SIZE_MAX)
                r = -EFBIG;
        if (r == 0)
                r = write_line(journal, line, size);
        if (r < 0) {
                (void)json_array_remove(journal->entries, at);
                return error_errno(err, -r, "cannot write the record %s", record);
        }
        remember(journal, entry);
        return 0;
}

int journal_each(const struct journal *journal, int (*fn)(const char *record, const json_t *entry, void *context),
                 void *context)
{
        for (size_t i = 0; i < json_array_size(journal->entries); i++) {
                const json_t *entry = json_array_get(journal->entries, i);
                int r = fn(json_string_value(json_object_get(entry, "record")), entry, context);
                if (r != 0)
                        return r;
        }
        return 0;
}

int journal_each_back(const struct journal *journal, int (*fn)(const char *record, const json_t *entry, void *context),
                      void *context)
{
        for (size_t i = json_array_size(journal->entries); i > 0; i--) {
                const json_t *entry = json_array_get(journal->entries, i - 1);
                int r = fn(json_string_value(json_object_get(entry, "record")), entry, context);
                if (r != 0)
                        return r;
        }
        return 0;
}

const char *journal_state(const struct journal *journal)
{
        return journal->state;
}
