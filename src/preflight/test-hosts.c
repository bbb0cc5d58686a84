/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Two hosts held against each other, by what each says of itself: processors, versions, clocks, and the link. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "preflight/preflight.h"

struct heard {
        enum grade worst;
        char text[8192];
};

static void hear(const char *item, enum grade grade, const char *reason, void *context)
{
        struct heard *h = context;

        if (strcmp(item, "cpu") == 0 || strcmp(item, "criu-versions") == 0 || strcmp(item, "clock") == 0 ||
            strcmp(item, "link") == 0) {
                h->worst = grade > h->worst ? grade : h->worst;
                (void)snprintf(h->text + strlen(h->text), sizeof(h->text) - strlen(h->text), "%s: %s\n", item, reason);
        }
}

static json_t *host(const char *arch, const char *criu, json_int_t time_ms, const char *flags, int xsave)
{
        return json_pack("{s:s, s:s, s:s, s:I, s:{s:s, s:i}}", "arch", arch, "kernel", "6.18.0", "criu", criu,
                         "time_ms", time_ms, "cpu", "flags", flags, "xsave", xsave);
}

static struct heard compare(json_t *source, json_t *target)
{
        struct heard h = {0};

        preflight_compare(source, target, hear, &h);
        json_decref(source);
        json_decref(target);
        return h;
}

#define HOST host("x86_64", "4.2.1", 1000000, "fpu sse4_2 avx2 pti", 832)

static void processors_are_compared(void **state)
{
        (void)state;
        struct heard h = compare(HOST, HOST);
        assert_int_equal(h.worst, GRADE_OK);
        /* What only the kernel uses may be missing, what programs use may not, and is named. */
        h = compare(HOST, host("x86_64", "4.2.1", 1000000, "fpu sse4_2 avx2 avx512f", 832));
        assert_int_equal(h.worst, GRADE_OK);
        h = compare(host("x86_64", "4.2.1", 1000000, "fpu sse4_2 avx2 avx512bw avx512f", 832), HOST);
        assert_int_equal(h.worst, GRADE_JUDGED);
        assert_non_null(strstr(h.text, "avx512bw avx512f"));
        /* "avx" is not in "avx2". */
        h = compare(host("x86_64", "4.2.1", 1000000, "avx", 832), HOST);
        assert_int_equal(h.worst, GRADE_JUDGED);
        h = compare(host("x86_64", "4.2.1", 1000000, "fpu", 2696), HOST);
        assert_int_equal(h.worst, GRADE_JUDGED);
        h = compare(host("x86_64", "4.2.1", 1000000, "fpu", 576), HOST);
        assert_int_equal(h.worst, GRADE_WARNING);
        h = compare(host("aarch64", "4.2.1", 1000000, "fp asimd", 0), HOST);
        assert_int_equal(h.worst, GRADE_JUDGED);
        /* On other machines every flag counts. */
        h = compare(host("aarch64", "4.2.1", 1000000, "fp sve", 0), host("aarch64", "4.2.1", 1000000, "fp", 0));
        assert_int_equal(h.worst, GRADE_JUDGED);
}

/* What the kernel said of two processors: an AMD EPYC of the fifth generation under Firecracker, and QEMU's Westmere.
 */
#define EPYC                                                                                                           \
        "fpu vme de pse tsc msr pae mce cx8 apic sep pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ht syscall nx "  \
        "mmxext lm constant_tsc rep_good nopl xtopology tsc_reliable nonstop_tsc cpuid extd_apicid tsc_known_freq "    \
        "pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave avx f16c rdrand " \
        "hypervisor lahf_lm cr8_legacy misalignsse 3dnowprefetch topoext pti vmmcall bmi1 avx2 bmi2 erms avx512f "     \
        "avx512dq adx avx512ifma clflushopt clwb avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec xgetbv1 avx_vnni "  \
        "avx512_bf16 clzero xsaveerptr arat avx512vbmi avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg "   \
        "avx512_vpopcntdq movdiri movdir64b fsrm avx512_vp2intersect"
#define WESTMERE                                                                                                       \
        "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx lm " \
        "constant_tsc nopl xtopology cpuid tsc_known_freq pni pclmulqdq ssse3 cx16 sse4_1 sse4_2 x2apic popcnt aes "   \
        "hypervisor lahf_lm cpuid_fault pti"

static json_t *with_xfeatures(json_t *host, json_int_t xfeatures)
{
        (void)json_object_set_new(json_object_get(host, "cpu"), "xfeatures", json_integer(xfeatures));
        return host;
}

static void recorded_processors_are_compared(void **state)
{
        (void)state;
        struct heard h =
                compare(host("x86_64", "4.2.1", 1000000, EPYC, 2440), host("x86_64", "4.2.1", 1000000, WESTMERE, 0));
        assert_int_equal(h.worst, GRADE_JUDGED);
        assert_non_null(strstr(h.text, ": mmxext fma movbe xsave avx f16c rdrand 3dnowprefetch bmi1 avx2 bmi2 erms "
                                       "avx512f"));
        /* Back it goes: what Westmere has more, programs do not use. */
        h = compare(host("x86_64", "4.2.1", 1000000, WESTMERE, 0), host("x86_64", "4.2.1", 1000000, EPYC, 2440));
        assert_int_equal(h.worst, GRADE_OK);
        /* The same instruction sets, but protection keys (bit 9) are in use on the source alone. */
        h = compare(with_xfeatures(HOST, 0x2e7), with_xfeatures(HOST, 0xe7));
        assert_int_equal(h.worst, GRADE_JUDGED);
        assert_non_null(strstr(h.text, "0x200 are missing"));
        h = compare(with_xfeatures(HOST, 0xe7), with_xfeatures(HOST, 0x2e7));
        assert_int_equal(h.worst, GRADE_OK);
}

/* What is started anew there finds out by itself what the processor can do, if it can be started at all. */
static void only_the_architecture_counts_for_a_start(void **state)
{
        static const struct {
                const char *arch;
                enum grade grade;
        } cases[] = {{"x86_64", GRADE_OK}, {"aarch64", GRADE_JUDGED}, {"", GRADE_JUDGED}};

        (void)state;
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                struct heard h = {0};
                json_t *source = host(cases[i].arch, "", 0, EPYC, 2440), *target = host("x86_64", "", 0, WESTMERE, 0);
                preflight_compare_architecture(source, target, hear, &h);
                json_decref(source);
                json_decref(target);
                assert_int_equal(h.worst, cases[i].grade);
                assert_non_null(strstr(h.text, "cpu: "));
        }
}

static void versions_and_clocks_are_compared(void **state)
{
        enum grade grade;

        (void)state;
        struct heard h = compare(host("x86_64", "3.19", 1000000, "fpu", 832), HOST);
        assert_int_equal(h.worst, GRADE_WARNING);
        h = compare(host("x86_64", "4.3", 1000000, "fpu", 832), HOST);
        assert_int_equal(h.worst, GRADE_WARNING);
        h = compare(host("x86_64", "4.1.1", 1000000, "fpu", 832), HOST);
        assert_int_equal(h.worst, GRADE_OK);
        h = compare(host("x86_64", "4.2.1", 996000, "fpu", 832), HOST);
        assert_int_equal(h.worst, GRADE_WARNING);
        assert_non_null(strstr(h.text, "4.0 s ahead of"));
        assert_non_null(preflight_bad_pair("3.17.1", "6.13.0-1", &grade));
        assert_int_equal(grade, GRADE_JUDGED);
        assert_non_null(preflight_bad_pair("4.1.1", "6.18.2", &grade));
        assert_int_equal(grade, GRADE_WARNING);
        assert_null(preflight_bad_pair("4.2.1", "6.18.2", &grade));
        assert_null(preflight_bad_pair("3.17.1", "6.1.0-20-amd64", &grade));
        assert_null(preflight_bad_pair("4.1.1", "6.12.0", &grade));
}

/* The floor, and the memory over what the link, or the person, allows. */
static void downtime_is_predicted(void **state)
{
        struct preflight_link link = {.round_us = 400, .bytes_per_second = 100000000};
        struct heard h = {0};

        (void)state;
        preflight_predict(&link, 75000000, 500000000, hear, &h);
        assert_int_equal(h.worst, GRADE_OK);
        assert_non_null(strstr(h.text, "about 1.0 s of downtime"));
        assert_non_null(strstr(h.text, "about 5 s before"));
        link.cap = 1000000;
        preflight_predict(&link, 75000000, 0, hear, &h);
        assert_int_equal(h.worst, GRADE_WARNING);
        assert_non_null(strstr(h.text, "about 75.2 s of downtime"));
        link = (struct preflight_link){.bytes_per_second = 100000000, .tracked = true};
        h = (struct heard){0};
        preflight_predict(&link, UINT64_C(2000000000), 0, hear, &h);
        assert_int_equal(h.worst, GRADE_OK);
        assert_non_null(strstr(h.text, "about 20 s while it runs"));
        assert_non_null(strstr(h.text, "about 0.2 s of downtime"));
        link.floor_ms = 1500;
        preflight_predict(&link, UINT64_C(2000000000), 0, hear, &h);
        assert_non_null(strstr(h.text, "about 1.5 s of downtime"));
        link = (struct preflight_link){0};
        preflight_predict(&link, 1, 0, hear, &h);
}

/* What a peer says of itself may be anything. */
static void nonsense_is_survived(void **state)
{
        (void)state;
        struct heard h = compare(json_pack("[i]", 1), HOST);
        assert_int_equal(h.worst, GRADE_JUDGED);
        h = compare(json_pack("{s:i, s:s, s:[]}", "arch", 7, "criu", "99999999999999999999.x", "cpu"), HOST);
        assert_int_equal(h.worst, GRADE_JUDGED);
        json_t *self = preflight_host("4.2.1");
        assert_non_null(self);
        assert_true(json_object_size(self) == 5);
        h = compare(json_incref(self), self);
        assert_int_equal(h.worst, GRADE_OK);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(processors_are_compared),
                cmocka_unit_test(recorded_processors_are_compared),
                cmocka_unit_test(only_the_architecture_counts_for_a_start),
                cmocka_unit_test(versions_and_clocks_are_compared),
                cmocka_unit_test(downtime_is_predicted),
                cmocka_unit_test(nonsense_is_survived),
        };

        return cmocka_run_group_tests_name("hosts", tests, NULL, NULL);
}
