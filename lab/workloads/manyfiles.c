/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * manyfiles DIR --files N [--rate CHANGES_PER_S] [--status FILE] [--seconds N]
 * manyfiles DIR --verify
 *
 * The first form makes a tree of N small files of eight kinds, keeps changing them, each in the way of its kind, and
 * remembers every file's generation in memory. On SIGUSR1, and at its end (SIGTERM, seconds), it checks the whole tree
 * against its memory and writes one line: "verified N files, M changes, 0 errors". Exit 1 when anything was wrong. The
 * second form knows no generations and checks that each file of a tree is whole in itself and of its kind.
 *
 * A file is a header {number, generation} and a pattern that follows from both.
 */
#include "common.h"
#include <endian.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

enum kind { PLAIN, REPLACED, MAPPED, SAME_MTIME, HARD_LINK, SPARSE, XATTR, ACL, KINDS };
enum { WORDS = 128, BYTES = WORDS * 8, HOLE = 1 << 20, PER_FOLDER = 256 };

static char base[3072];
static int status;
static unsigned errors;
static volatile sig_atomic_t asked_to_verify;

static void note_verify(int number)
{
        (void)number;
        asked_to_verify = 1;
}

__attribute__((format(printf, 2, 3))) static void wrong(unsigned file, const char *format, ...)
{
        char text[256];
        va_list list;

        va_start(list, format);
        vsnprintf(text, sizeof(text), format, list);
        va_end(list);
        if (errors++ < 20)
                put_line(status, "error: file %u (kind %u): %s", file, file % KINDS, text);
}

struct path {
        char text[sizeof(base) + 64];
};

static struct path path_of(unsigned file, const char *suffix)
{
        struct path path;

        snprintf(path.text, sizeof(path.text), "%s/%u/%u%s", base, file / PER_FOLDER, file, suffix);
        return path;
}

static off_t offset_of(unsigned file)
{
        return file % KINDS == SPARSE ? HOLE : 0;
}

static void content(unsigned file, uint64_t generation, uint64_t words[WORDS])
{
        words[0] = file;
        words[1] = generation;
        for (unsigned n = 2; n < WORDS; n++)
                words[n] = (file + 1) * UINT64_C(0x9E3779B97F4A7C15) + generation * UINT64_C(0xC2B2AE3D27D4EB4F) + n;
}

/* The binary form of a POSIX ACL: u:rw, user (1000 + generation % 1000):r, g:r, mask:r, o:r. */
struct acl {
        uint32_t version;
        struct {
                uint16_t tag, permissions;
                uint32_t id;
        } entries[5];
};

static struct acl acl_of(uint64_t generation)
{
        uint32_t none = UINT32_MAX, user = (uint32_t)(1000 + generation % 1000);

        return (struct acl){htole32(2),
                            {{htole16(0x01), htole16(6), none},
                             {htole16(0x02), htole16(4), htole32(user)},
                             {htole16(0x04), htole16(4), none},
                             {htole16(0x10), htole16(4), none},
                             {htole16(0x20), htole16(4), none}}};
}

static void write_content(const char *path, unsigned file, uint64_t generation, int flags)
{
        uint64_t words[WORDS];
        int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);

        content(file, generation, words);
        if (fd < 0 || pwrite(fd, words, BYTES, offset_of(file)) != BYTES)
                die("%s: %s", path, strerror(errno));
        close(fd);
}

static void write_mapped(const char *path, unsigned file, uint64_t generation)
{
        uint64_t words[WORDS];
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *map = fd < 0 ? MAP_FAILED : mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (map == MAP_FAILED)
                die("%s: %s", path, strerror(errno));
        content(file, generation, words);
        memcpy(map, words, BYTES);
        munmap(map, BYTES);
        close(fd);
}

/* Size and times say nothing afterwards: only a comparison of contents finds this change. */
static void write_keeping_mtime(const char *path, unsigned file, uint64_t generation)
{
        struct stat before;

        if (stat(path, &before) < 0)
                die("%s: %s", path, strerror(errno));
        write_content(path, file, generation, 0);
        utimensat(AT_FDCWD, path, (struct timespec[2]){before.st_atim, before.st_mtim}, 0);
}

static void change(unsigned file, uint64_t generation)
{
        struct path own = path_of(file, ""), replacement = path_of(file, ".new"), link = path_of(file, ".link");
        const char *path = own.text;
        struct acl acl = acl_of(generation);
        int failed = 0;

        switch (file % KINDS) {
        case REPLACED:
                write_content(replacement.text, file, generation, O_CREAT | O_TRUNC);
                failed = rename(replacement.text, path);
                break;
        case MAPPED:
                write_mapped(path, file, generation);
                break;
        case SAME_MTIME:
                write_keeping_mtime(path, file, generation);
                break;
        case HARD_LINK: /* through one name, to be read by the other */
                write_content(link.text, file, generation, 0);
                break;
        case XATTR:
                failed = setxattr(path, "user.generation", &generation, sizeof(generation), 0);
                write_content(path, file, generation, 0);
                break;
        case ACL:
                failed = setxattr(path, "system.posix_acl_access", &acl, sizeof(acl), 0);
                write_content(path, file, generation, 0);
                break;
        default:
                write_content(path, file, generation, 0);
        }
        if (failed)
                die("%s: %s", path, strerror(errno));
}

static void create(unsigned file)
{
        struct path path = path_of(file, ""), second = path_of(file, ".link");

        write_content(path.text, file, 0, O_CREAT | O_EXCL);
        if (file % KINDS == HARD_LINK && link(path.text, second.text) < 0)
                die("%s: %s", path.text, strerror(errno));
        change(file, 0);
}

static void verify_kind(unsigned file, const char *path, uint64_t generation, const struct stat *seen)
{
        struct acl acl, wanted = acl_of(generation);
        struct stat other;
        uint64_t attribute;

        if (seen->st_size != offset_of(file) + BYTES)
                wrong(file, "size %ld", (long)seen->st_size);
        if (file % KINDS == HARD_LINK &&
            (stat(path_of(file, ".link").text, &other) < 0 || other.st_ino != seen->st_ino || seen->st_nlink != 2))
                wrong(file, "hard link broken");
        if (file % KINDS == SPARSE && seen->st_blocks * 512 >= HOLE)
                wrong(file, "hole filled");
        if (file % KINDS == XATTR &&
            (getxattr(path, "user.generation", &attribute, sizeof(attribute)) != sizeof(attribute) ||
             attribute != generation))
                wrong(file, "extended attribute");
        if (file % KINDS == ACL && (getxattr(path, "system.posix_acl_access", &acl, sizeof(acl)) != sizeof(acl) ||
                                    memcmp(&acl, &wanted, sizeof(acl)) != 0))
                wrong(file, "access control list");
}

/* Against a generation, or against the one the file itself names when that is NULL. */
static void verify(unsigned file, const uint64_t *generation)
{
        struct path path = path_of(file, "");
        uint64_t words[WORDS], wanted[WORDS];
        struct stat seen;
        int fd = open(path.text, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || fstat(fd, &seen) < 0 || pread(fd, words, BYTES, offset_of(file)) != BYTES) {
                wrong(file, "%s", fd < 0 ? strerror(errno) : "short");
        } else {
                if (generation && words[1] != *generation)
                        wrong(file, "generation %lu, not %lu", (unsigned long)words[1], (unsigned long)*generation);
                content(file, words[1], wanted);
                if (memcmp(words, wanted, BYTES) != 0)
                        wrong(file, "content");
                verify_kind(file, path.text, words[1], &seen);
        }
        if (fd >= 0)
                close(fd);
}

static void verify_all(const uint64_t *generations, unsigned count, uint64_t changes)
{
        errors = 0;
        for (unsigned file = 0; file < count; file++)
                verify(file, generations ? &generations[file] : NULL);
        put_line(status, "verified %u files, %lu changes, %u errors", count, (unsigned long)changes, errors);
}

/* How many files a tree has: they are numbered without a gap. */
static unsigned count_files(void)
{
        unsigned count = 0;

        while (access(path_of(count, "").text, F_OK) == 0)
                count++;
        return count;
}

int main(int argc, char **argv)
{
        if (argc < 3 || strlen(argv[1]) >= sizeof(base))
                die("manyfiles DIR --files N [--rate N] [--status FILE] [--seconds N] | manyfiles DIR --verify");
        strcpy(base, argv[1]);
        status = open_status(argc, argv);
        if (strcmp(argv[2], "--verify") == 0) {
                verify_all(NULL, count_files(), 0);
                return errors ? 1 : 0;
        }
        unsigned count = (unsigned)number_option(argc, argv, "files", 1000);
        double rate = number_option(argc, argv, "rate", 100), seconds = number_option(argc, argv, "seconds", 1e9);
        uint64_t *generations = calloc(count, sizeof(*generations)), random = 1, changes = 0;
        bool failed = false;

        if (!count || !generations || (mkdir(base, 0755) < 0 && errno != EEXIST))
                die("%s: cannot begin", base);
        stop_on_signals();
        sigaction(SIGUSR1, &(struct sigaction){.sa_handler = note_verify}, NULL);
        for (unsigned file = 0; file < count; file++) {
                char folder[sizeof(base) + 16];
                snprintf(folder, sizeof(folder), "%s/%u", base, file / PER_FOLDER);
                if (file % PER_FOLDER == 0 && mkdir(folder, 0755) < 0)
                        die("%s: %s", folder, strerror(errno));
                create(file);
        }
        put_line(status, "ready: %u files", count);
        for (double start = monotonic_s(); !asked_to_stop && monotonic_s() - start < seconds;) {
                if (asked_to_verify) {
                        asked_to_verify = 0;
                        verify_all(generations, count, changes);
                        failed |= errors > 0;
                }
                if (rate > 0) {
                        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
                        unsigned file = (unsigned)((random >> 33) % count);
                        change(file, ++generations[file]);
                        changes++;
                }
                sleep_us(rate > 0 ? (long)(1e6 / rate) : 10000);
        }
        verify_all(generations, count, changes);
        return failed || errors ? 1 : 0;
}
