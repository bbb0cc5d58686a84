/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Automatic release of resources at the end of a scope. Every destructor accepts NULL (or -1) and half-built objects.
 * Ownership that leaves a scope is visible: TAKE_PTR() and TAKE_FD() hand the value over and disarm the variable.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(function) __attribute__((cleanup(function)))

/* Defines NAME_ptr(TYPE **) for use with CLEANUP(): calls `function` unless the pointer is NULL. */
#define DEFINE_CLEANUP(type, function)                                                                                 \
        static inline void function##_ptr(type **p)                                                                    \
        {                                                                                                              \
                if (*p)                                                                                                \
                        function(*p);                                                                                  \
        }

static inline void cleanup_free(void *p)
{
        free(*(void **)p);
}

static inline void cleanup_fd(const int *fd)
{
        if (*fd >= 0)
                (void)close(*fd);
}

static inline void cleanup_file(FILE **f)
{
        if (*f)
                (void)fclose(*f);
}

static inline void cleanup_dir(DIR **d)
{
        if (*d)
                (void)closedir(*d);
}

#define AUTO_FREE CLEANUP(cleanup_free)
#define AUTO_FD CLEANUP(cleanup_fd)
#define AUTO_FILE CLEANUP(cleanup_file)
#define AUTO_DIR CLEANUP(cleanup_dir)

#define TAKE_PTR(p)                                                                                                    \
        ({                                                                                                             \
                __auto_type taken_ = (p);                                                                              \
                (p) = NULL;                                                                                            \
                taken_;                                                                                                \
        })

#define TAKE_FD(fd)                                                                                                    \
        ({                                                                                                             \
                int taken_ = (fd);                                                                                     \
                (fd) = -1;                                                                                             \
                taken_;                                                                                                \
        })
