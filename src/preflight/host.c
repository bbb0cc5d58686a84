/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"
#include "preflight/preflight.h"

#define CPUINFO_MAX (32U << 20)
#define FLAGS_MAX 8192
#define CLOCK_WARNING_MS 1000

/* -- what this host is ------------------------------------------------------------------------------------------ */

/* The value of the first "key : value" line; "" when there is none. */
static void cpuinfo_value(const char *text, const char *key, char *ret, size_t size)
{
        size_t n = strlen(key);

        ret[0] = '\0';
        for (const char *line = text; line && *line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, key, n) != 0 || (line[n] != '\t' && line[n] != ' ' && line[n] != ':'))
                        continue;
                const char *value = line + strcspn(line, ":\n");
                if (*value != ':')
                        continue;
                value += 1 + strspn(value + 1, " ");
                (void)snprintf(ret, size, "%.*s", (int)strcspn(value, "\n"), value);
                return;
        }
}

/* The save area of everything the kernel has enabled: what signal frames and lazy binding write. 0: not known. */
static unsigned xsave_size(void)
{
#if defined(__x86_64__)
        unsigned a, b, c, d;

        if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
                return b;
#endif
        return 0;
}

/* Which parts of the extended state are in use, as CRIU compares them (criu/arch/x86/cpu.c); 0: not known. */
static uint64_t xsave_features(void)
{
#if defined(__x86_64__)
        unsigned a, b, c, d;

        if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE)) {
                __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
                return (uint64_t)d << 32 | a;
        }
#endif
        return 0;
}

json_t *preflight_host(const char *criu)
{
        AUTO_FREE char *text = NULL;
        char vendor[64] = "", model[128] = "", flags[FLAGS_MAX] = "";
        struct utsname u;

        if (uname(&u) < 0)
                return NULL;
        if (fd_read_file(AT_FDCWD, "/proc/cpuinfo", CPUINFO_MAX, &text, NULL) == 0) {
                cpuinfo_value(text, "vendor_id", vendor, sizeof(vendor));
                cpuinfo_value(text, "model name", model, sizeof(model));
                cpuinfo_value(text, "flags", flags, sizeof(flags));
                if (!flags[0])
                        cpuinfo_value(text, "Features", flags, sizeof(flags));
        }
        return json_pack("{s:s, s:s, s:s, s:I, s:{s:s, s:s, s:s, s:i, s:I}}", "arch", u.machine, "kernel", u.release,
                         "criu", criu, "time_ms", (json_int_t)clock_wall_ms(), "cpu", "vendor", vendor, "model", model,
                         "flags", flags, "xsave", (int)xsave_size(), "xfeatures", (json_int_t)xsave_features());
}

/* -- versions --------------------------------------------------------------------------------------------------- */

/* "4.2.1" and "6.18.0-1-amd64" as numbers that compare: major times 1000 plus minor. 0 when it is no version. */
static unsigned long version_of(const char *text)
{
        char *end;
        unsigned long major = strtoul(text, &end, 10);

        return end == text || *end != '.' ? major * 1000 : major * 1000 + strtoul(end + 1, NULL, 10);
}

const char *preflight_bad_pair(const char *criu, const char *kernel, enum grade *ret_grade)
{
        unsigned long c = version_of(criu), k = version_of(kernel);

        *ret_grade = GRADE_JUDGED;
        if (c == 0 || k == 0)
                return NULL;
        if (k >= 6013 && c < 4000)
                return "a CRIU before 4.0 does not start on Linux 6.13 and later. Install CRIU 4.2 or later";
        if (k >= 6016 && c < 4002) {
                *ret_grade = GRADE_WARNING;
                return "a CRIU before 4.2 cannot carry TCP and UDP sockets on Linux 6.16 and later. Install CRIU 4.2 "
                       "or "
                       "later";
        }
        return NULL;
}

void preflight_criu(char ret_version[static 32], hauler_report_fn report, void *context)
{
        struct error err = {0};
        struct utsname u;
        enum grade grade;
        char text[300], version[32];

        ret_version[0] = '\0';
        if (criu_usable(version, &err) < 0) {
                report("criu", GRADE_JUDGED, err.text, context);
                return;
        }
        (void)snprintf(ret_version, 32, "%s", version);
        if (uname(&u) < 0)
                u.release[0] = '\0';
        const char *why = preflight_bad_pair(version, u.release, &grade);
        (void)snprintf(text, sizeof(text), "CRIU %s on Linux %.65s%s%s", version, u.release, why ? ": " : "",
                       why ? why : "");
        report("criu", why ? grade : GRADE_OK, text, context);
}

static const char *text_of(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));

        return text && strlen(text) < FLAGS_MAX ? text : "";
}

static void compare_criu(const json_t *source, const json_t *target, hauler_report_fn report, void *context)
{
        const char *there = text_of(source, "criu"), *here = text_of(target, "criu");
        unsigned long s = version_of(there), t = version_of(here);
        char text[400];

        if (s == 0 || t == 0 || s == t)
                return;
        if (s / 1000 != t / 1000)
                (void)snprintf(
                        text, sizeof(text),
                        "CRIU %.32s on the source and %.32s here differ in their major version: images may not be "
                        "understood. Install the same version on both",
                        there, here);
        else if (t < s)
                (void)snprintf(text, sizeof(text),
                               "CRIU %.32s here is older than %.32s on the source, whose images it may not understand. "
                               "Update it",
                               here, there);
        else
                return;
        report("criu-versions", GRADE_WARNING, text, context);
}

/* -- processors ------------------------------------------------------------------------------------------------- */

/*
 * What programs may have found when they started and use ever since, without asking again. Flags that only the kernel
 * or a hypervisor uses are not here: a target may lack them.
 */
static const char *const instruction_sets[] = {"fpu",
                                               "tsc",
                                               "cx8",
                                               "cmov",
                                               "mmx",
                                               "mmxext",
                                               "3dnow",
                                               "3dnowext",
                                               "fxsr",
                                               "sse",
                                               "sse2",
                                               "pni",
                                               "ssse3",
                                               "sse4_1",
                                               "sse4_2",
                                               "sse4a",
                                               "cx16",
                                               "lahf_lm",
                                               "popcnt",
                                               "abm",
                                               "bmi1",
                                               "bmi2",
                                               "adx",
                                               "movbe",
                                               "rdrand",
                                               "rdseed",
                                               "rdtscp",
                                               "aes",
                                               "vaes",
                                               "pclmulqdq",
                                               "vpclmulqdq",
                                               "sha_ni",
                                               "sha512",
                                               "sm3",
                                               "sm4",
                                               "gfni",
                                               "xsave",
                                               "xsaveopt",
                                               "xsavec",
                                               "xgetbv1",
                                               "avx",
                                               "avx2",
                                               "f16c",
                                               "fma",
                                               "fma4",
                                               "xop",
                                               "tbm",
                                               "avx_vnni",
                                               "avx_ifma",
                                               "avx_vnni_int8",
                                               "avx_vnni_int16",
                                               "avx_ne_convert",
                                               "amx_tile",
                                               "amx_int8",
                                               "amx_bf16",
                                               "amx_fp16",
                                               "amx_complex",
                                               "fsgsbase",
                                               "rtm",
                                               "hle",
                                               "clflushopt",
                                               "clwb",
                                               "clzero",
                                               "prefetchwt1",
                                               "3dnowprefetch",
                                               "movdiri",
                                               "movdir64b",
                                               "serialize",
                                               "waitpkg",
                                               "cldemote",
                                               "enqcmd",
                                               "rdpid",
                                               "erms",
                                               "fsrm",
                                               "pku",
                                               "ospke",
                                               "cmpccxadd",
                                               "raoint",
                                               "wbnoinvd",
                                               NULL};

static bool is_instruction_set(const char *flag, const char *arch)
{
        /* Elsewhere the kernel lists what programs may use and nothing else. AVX-512 has many names. */
        if (strcmp(arch, "x86_64") != 0 || strncmp(flag, "avx512", 6) == 0)
                return true;
        for (size_t i = 0; instruction_sets[i]; i++)
                if (strcmp(instruction_sets[i], flag) == 0)
                        return true;
        return false;
}

static bool has_flag(const char *flags, const char *flag)
{
        size_t n = strlen(flag);

        for (const char *p = flags; (p = strstr(p, flag)); p += n)
                if ((p == flags || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
                        return true;
        return false;
}

/* Flags of `source` that `target` lacks and programs may use, separated by blanks; their number. */
static size_t missing_flags(const char *source, const char *target, const char *arch, char *ret, size_t size)
{
        AUTO_FREE char *copy = strdup(source);
        char *save = NULL;
        size_t n = 0;

        ret[0] = '\0';
        for (char *flag = copy ? strtok_r(copy, " ", &save) : NULL; flag; flag = strtok_r(NULL, " ", &save)) {
                if (!is_instruction_set(flag, arch) || has_flag(target, flag))
                        continue;
                size_t used = strlen(ret);
                if (used + strlen(flag) + 2 < size)
                        (void)snprintf(ret + used, size - used, "%s%s", used ? " " : "", flag);
                n++;
        }
        return n;
}

static bool same_architecture(const json_t *source, const json_t *target, hauler_report_fn report, void *context)
{
        char text[200];

        if (strcmp(text_of(source, "arch"), text_of(target, "arch")) == 0)
                return true;
        (void)snprintf(text, sizeof(text), "the source is %.32s, this host %.32s. Choose a target of the same kind",
                       text_of(source, "arch"), text_of(target, "arch"));
        report("cpu", GRADE_JUDGED, text, context);
        return false;
}

static void compare_cpu(const json_t *source, const json_t *target, hauler_report_fn report, void *context)
{
        const json_t *theirs = json_object_get(source, "cpu"), *ours = json_object_get(target, "cpu");
        const char *arch = text_of(target, "arch");
        json_int_t there = json_integer_value(json_object_get(theirs, "xsave"));
        json_int_t here = json_integer_value(json_object_get(ours, "xsave"));
        const uint64_t parts_there = (uint64_t)json_integer_value(json_object_get(theirs, "xfeatures"));
        const uint64_t parts_here = (uint64_t)json_integer_value(json_object_get(ours, "xfeatures"));
        char text[900], missing[400];

        if (!same_architecture(source, target, report, context))
                return;
        if (missing_flags(text_of(theirs, "flags"), text_of(ours, "flags"), arch, missing, sizeof(missing))) {
                (void)snprintf(
                        text, sizeof(text),
                        "this processor lacks what programs may have found on the source: %s. They would be killed "
                        "by an illegal instruction. Choose another target, or mask these on the source (a virtual "
                        "machine: a common CPU model)",
                        missing);
                report("cpu", GRADE_JUDGED, text, context);
        } else if (parts_there & ~parts_here) {
                (void)snprintf(text, sizeof(text),
                               "this processor, or its kernel, has not all parts of the extended state in use that the "
                               "source has (%#llx are missing): CRIU cannot put the registers back. Choose another "
                               "target",
                               (unsigned long long)(parts_there & ~parts_here));
                report("cpu", GRADE_JUDGED, text, context);
        } else if (here < there) {
                (void)snprintf(
                        text, sizeof(text),
                        "the extended state of this processor has %lld bytes, that of the source %lld: CRIU cannot "
                        "put the registers back. Choose another target",
                        (long long)here, (long long)there);
                report("cpu", GRADE_JUDGED, text, context);
        } else if (here > there && there > 0) {
                (void)snprintf(
                        text, sizeof(text),
                        "the extended state of this processor has %lld bytes, that of the source %lld: a program "
                        "with a tight signal stack may overflow it",
                        (long long)here, (long long)there);
                report("cpu", GRADE_WARNING, text, context);
        } else {
                report("cpu", GRADE_OK, "it has every instruction set of the source", context);
        }
}

/* -- clocks ----------------------------------------------------------------------------------------------------- */

/* The time the offer was on its way is in it: seconds matter, not milliseconds. */
static void compare_clocks(const json_t *source, const json_t *target, hauler_report_fn report, void *context)
{
        json_int_t there = json_integer_value(json_object_get(source, "time_ms"));
        json_int_t here = json_integer_value(json_object_get(target, "time_ms"));
        char text[300];

        if (there <= 0 || there > INT64_MAX / 2)
                return;
        json_int_t ahead = here - there;
        if (ahead < CLOCK_WARNING_MS && ahead > -CLOCK_WARNING_MS) {
                report("clock", GRADE_OK, "the clocks of both hosts agree within a second", context);
                return;
        }
        (void)snprintf(
                text, sizeof(text),
                "the clock here is %lld.%lld s %s that of the source: the workload sees time jump%s. Let both hosts "
                "use NTP",
                (long long)llabs(ahead) / 1000, (long long)llabs(ahead) % 1000 / 100, ahead > 0 ? "ahead of" : "behind",
                ahead > 0 ? "" : " back");
        report("clock", GRADE_WARNING, text, context);
}

void preflight_compare_architecture(const json_t *source, const json_t *target, hauler_report_fn report, void *context)
{
        if (same_architecture(source, target, report, context))
                report("cpu", GRADE_OK, "it has the architecture of the source", context);
}

void preflight_compare(const json_t *source, const json_t *target, hauler_report_fn report, void *context)
{
        compare_cpu(source, target, report, context);
        compare_criu(source, target, report, context);
        compare_clocks(source, target, report, context);
}
