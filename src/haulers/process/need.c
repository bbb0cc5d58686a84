/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "haulers/process/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/vfs.h>

#include "base/cleanup.h"

#define NAMED_MAX 60      /* findings one by one; the others are counted */
#define COPY_PATH_MAX 900 /* it must fit a finding */
#define PARSED_MAX 4096

/* ------------------------------------------------------------------------------------------------------- on its way */

static json_t *one(const struct process_file *f, bool digests)
{
        const char use[] = {(char)f->use, '\0'};

        if (f->use == FILE_DIRECTORY || f->use == FILE_OTHER)
                return json_pack("[s, s, I]", f->path, use, (json_int_t)(f->mode & S_IFMT));
        return json_pack("[s, s, I, s]", f->path, use, (json_int_t)f->size, digests ? f->digest : "");
}

/* As many as fit; the number left out. */
static size_t fill(const struct process_files *files, bool digests, size_t room, json_t *array)
{
        size_t used = 2, i = 0;

        json_array_clear(array);
        for (; i < files->n; i++) {
                json_t *entry = one(&files->files[i], digests);
                AUTO_FREE char *text = entry ? json_dumps(entry, JSON_COMPACT) : NULL;
                if (!text || used + strlen(text) + 1 > room) {
                        json_decref(entry);
                        if (text)
                                break;
                        continue; /* a name that is not UTF-8: told by the caller */
                }
                used += strlen(text) + 1;
                (void)json_array_append_new(array, entry);
        }
        return files->n - i;
}

int process_files_describe(const struct process_files *files, json_t *description, size_t room,
                           struct process_findings *f, struct error *err)
{
        json_t *array = json_array();
        size_t left;

        for (size_t i = 0; i < files->n; i++)
                if (!utf8_is_valid(files->files[i].path, strlen(files->files[i].path)))
                        process_say(f, "files", GRADE_WARNING,
                                    "the name of a file it uses is not UTF-8: it is not compared");
        left = array ? fill(files, true, room, array) : 0;
        if (left) {
                left = fill(files, false, room, array);
                process_say(f, "files", GRADE_WARNING, "it uses %zu files: they are compared by size only", files->n);
        }
        if (left)
                process_say(f, "files", GRADE_WARNING, "it uses %zu files: the last %zu of them are not compared",
                            files->n, left);
        if (!array || json_object_set_new(description, "files", array) < 0)
                return error_set(err, ENOMEM, "out of memory");
        return 0;
}

static bool path_is_clean(const char *path)
{
        if (!path || path[0] != '/' || strlen(path) > 4000)
                return false;
        for (const char *part = path; part; part = strchr(part, '/')) {
                part++;
                size_t n = strcspn(part, "/");
                if ((n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.'))
                        return false;
        }
        return true;
}

static int parse_one(const json_t *entry, struct process_file *ret)
{
        const char *path = json_string_value(json_array_get(entry, 0));
        const char *use = json_string_value(json_array_get(entry, 1));
        json_int_t number = json_integer_value(json_array_get(entry, 2));
        const char *digest = json_string_value(json_array_get(entry, 3)) ?: "";

        if (!path_is_clean(path) || !use || strlen(use) != 1 || !strchr("cdorw", use[0]) || number < 0 ||
            (digest[0] && (strlen(digest) != 32 || strspn(digest, "0123456789abcdef") != 32)))
                return -EBADMSG;
        *ret = (struct process_file){.use = (enum process_file_use)use[0]};
        if (use[0] == 'd' || use[0] == 'o')
                ret->mode = (mode_t)number;
        else
                ret->size = (uint64_t)number;
        memcpy(ret->digest, digest, strlen(digest) + 1);
        ret->path = strdup(path);
        return ret->path ? 0 : -ENOMEM;
}

int process_files_parse(const json_t *description, struct process_files *ret, struct error *err)
{
        const json_t *array = json_object_get(description, "files");
        size_t n = json_array_size(array);
        CLEANUP(process_files_done) struct process_files list = {0};

        list.files = n <= PARSED_MAX ? calloc(n + 1, sizeof(*list.files)) : NULL;
        if (!list.files)
                return error_set(err, n <= PARSED_MAX ? ENOMEM : E2BIG, "cannot take the list of files");
        for (size_t i = 0; i < n; i++) {
                int r = parse_one(json_array_get(array, i), &list.files[i]);
                if (r < 0)
                        return error_set_kind(err, ERROR_REFUSED, -r, "the description names a file that is none");
                list.n++;
        }
        process_files_move(ret, &list);
        return 0;
}

/* ---------------------------------------------------------------------------------------------------- on the target */

/* The same file on both hosts, which must not be copied over itself. */
static bool is_shared_storage(const char *path)
{
        static const long magics[] = {0x6969,     0xff534d42, 0xfe534d42, 0x00c36400,
                                      0x01161970, 0x7461636f, 0x0bd00bd0, 0x65735546};
        struct statfs fs;

        if (statfs(path, &fs) < 0)
                return false;
        for (size_t i = 0; i < sizeof(magics) / sizeof(magics[0]); i++)
                if ((unsigned long)fs.f_type == (unsigned long)magics[i])
                        return true;
        return false;
}

/* NULL when it is as it must be, else what is wrong with it. */
static const char *wrong_with(const struct process_file *file, bool *ret_missing)
{
        struct stat st;
        uint64_t size;
        char digest[33];

        *ret_missing = false;
        if (lstat(file->path, &st) < 0) {
                *ret_missing = errno == ENOENT || errno == ENOTDIR;
                return *ret_missing ? "is missing here" : "cannot be looked at here";
        }
        if (file->use == FILE_DIRECTORY || file->use == FILE_OTHER)
                return (stat(file->path, &st) == 0 && (st.st_mode & S_IFMT) == (file->mode & S_IFMT))
                               ? NULL
                               : "is of another type here";
        if (!S_ISREG(st.st_mode))
                return "is no regular file here";
        /* It is being written to between the two looks, and seen later from here than from there. */
        if (file->use == FILE_WRITTEN && is_shared_storage(file->path))
                return NULL;
        if ((uint64_t)st.st_size != file->size)
                return "is different here: it has another size";
        if (!file->digest[0])
                return NULL;
        if (process_file_digest(file->path, &size, digest) < 0)
                return "cannot be read here";
        return strcmp(digest, file->digest) == 0 ? NULL : "is different here: it has another content";
}

/* Files of the operating system are never replaced: other programs of this host live on them. */
static bool is_system(const char *path)
{
        static const char *const prefixes[] = {"/usr/", "/lib", "/bin/", "/sbin/", "/boot/", "/etc/"};

        if (strncmp(path, "/usr/local/", 11) == 0)
                return false;
        for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
                if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0)
                        return true;
        return false;
}

/* Whether it can be brought; what is written to changes until the freeze, so that is always brought. */
static bool wants_copy(const struct process_file *file, const char *wrong, bool missing)
{
        if (strlen(file->path) > COPY_PATH_MAX)
                return false;
        if (file->use == FILE_WRITTEN)
                return missing || (!is_shared_storage(file->path) && !is_system(file->path));
        return wrong && file->use != FILE_OTHER && (missing || (file->use != FILE_DIRECTORY && !is_system(file->path)));
}

/* About one that is not as it must be. */
static const char *advice(const struct process_file *file, const char *wrong, bool missing, bool copy)
{
        if (!copy && wants_copy(file, wrong, missing))
                return file->use == FILE_DIRECTORY ? "; --copy-files brings it, but not what is in it"
                                                   : "; --copy-files brings it";
        if (!copy)
                return "";
        return is_system(file->path) && !missing ? ", and what belongs to the system is not replaced" : "";
}

size_t process_files_verify(const struct process_files *files, bool copy, const struct process_file **ret_copies,
                            struct process_findings *f)
{
        const unsigned before = f->errors;
        unsigned named = 0, more = 0;
        size_t copies = 0;

        for (size_t i = 0; i < files->n; i++) {
                const struct process_file *file = &files->files[i];
                bool missing;

                const char *wrong = wrong_with(file, &missing);
                if (copy && wants_copy(file, wrong, missing)) {
                        if (copies < PROCESS_COPIES_MAX) {
                                ret_copies[copies] = file;
                                process_say(f, "copy", GRADE_OK, "%s", file->path);
                        }
                        if (file->use == FILE_DIRECTORY && named++ < NAMED_MAX)
                                process_say(f, "files", GRADE_WARNING,
                                            "%.900s is a directory: what is in it, and not open, does not come along",
                                            file->path);
                        copies++;
                } else if (wrong && named++ < NAMED_MAX) {
                        process_say(f, "files", GRADE_ERROR, "%.900s %s%s", file->path, wrong,
                                    advice(file, wrong, missing, copy));
                } else if (wrong) {
                        more++;
                }
        }
        if (more)
                process_say(f, "files", GRADE_ERROR, "and %u more of its files are missing or different here", more);
        if (copies > PROCESS_COPIES_MAX)
                process_say(f, "files", GRADE_ERROR, "%zu files would have to be copied, %d can be: copy them first",
                            copies, PROCESS_COPIES_MAX);
        if (f->errors == before)
                process_say(f, "files", GRADE_OK,
                            copies ? "of its %zu files %zu will be copied" : "its %zu files are here", files->n,
                            copies);
        return copies < PROCESS_COPIES_MAX ? copies : PROCESS_COPIES_MAX;
}
