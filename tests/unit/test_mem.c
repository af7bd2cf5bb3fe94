/* SPDX-License-Identifier: MIT
 *
 * The physical address space: regions, holes, MMIO, code notes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "src/mem/mem.h"

static int fresh(void **state)
{
    *state = mem_create();
    return *state ? 0 : -1;
}

static int gone(void **state)
{
    mem_destroy(*state);
    return 0;
}

static void regions_do_not_overlap(void **state)
{
    struct mem *m = *state;
    assert_true(mem_add_ram(m, HPA(0x10000), 0x4000));
    assert_false(mem_add_ram(m, HPA(0x13000), 0x1000));
    assert_false(mem_add_ram(m, HPA(0xf000), 0x2000));
    assert_false(mem_add_ram(m, HPA(0x0), 0x100000));
    assert_true(mem_add_ram(m, HPA(0x14000), 0x1000));
    assert_true(mem_add_ram(m, HPA(0xf000), 0x1000));
}

static void odd_or_empty_or_wrapping_regions_are_refused(void **state)
{
    struct mem *m = *state;
    assert_false(mem_add_ram(m, HPA(0), 0));
    assert_false(mem_add_ram(m, HPA(0x800), 0x1000));
    assert_false(mem_add_ram(m, HPA(0), 0x1800));
    assert_false(mem_add_mmio(m, HPA(0xfffffffffffff000), 0x2000, NULL, NULL));
}

static void host_pointers_stay_inside_their_region(void **state)
{
    struct mem *m = *state;
    assert_true(mem_add_ram(m, HPA(0x1000), 0x1000));
    assert_true(mem_add_ram(m, HPA(0x2000), 0x1000));
    assert_non_null(mem_host(m, HPA(0x1000), 0x1000, true));
    assert_null(mem_host(m, HPA(0x1ff8), 16, false)); /* two regions are two pieces of host memory */
    assert_null(mem_host(m, HPA(0xff8), 16, false));
    assert_null(mem_host(m, HPA(0x3000), 1, false));
    assert_null(mem_host(m, HPA(0x1000), 0, false));
    assert_null(mem_host(m, HPA(0x1000), UINT64_MAX, false));
}

/* What would run over the ends of a guest's memory meets no memory of the host. */
static void nothing_of_the_host_lies_beside_ram(void **state)
{
    struct mem *m = *state;
    assert_true(mem_add_ram(m, HPA(0), 1 << 20));
    volatile uint8_t *ram = mem_host(m, HPA(0), 1 << 20, true);
    static const long at[] = {-1, -4096, 1 << 20, (1 << 20) + 60000};
    for (unsigned i = 0; i < 4; i++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL);
            _exit(ram[at[i]] & 0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

static void phys_is_the_inverse_of_host(void **state)
{
    struct mem *m = *state;
    static uint8_t mine[8192] __attribute__((aligned(4096)));
    assert_true(mem_add_ram(m, HPA(0x1000), 0x3000));
    assert_true(mem_add_host(m, HPA(0x100000000), mine, sizeof mine, false));
    assert_int_equal(mem_phys(m, mem_host(m, HPA(0x2345), 1, false)), 0x2345);
    assert_int_equal(mem_phys(m, mine + 0x1001), 0x100001001);
    assert_true(mem_phys(m, &state) == UINT64_MAX);
}

static void holes_read_as_ones_and_drop_writes(void **state)
{
    struct mem *m = *state;
    uint64_t v = 0;
    assert_true(mem_add_ram(m, HPA(0), 0x1000));
    mem_write(m, HPA(0xffc), &v, 8); /* half in RAM, half in the hole */
    v = 0x1122334455667788;
    mem_write(m, HPA(0xffc), &v, 8);
    v = 0;
    mem_read(m, HPA(0xffc), &v, 8);
    assert_true(v == 0xffffffff55667788);
}

static void read_only_memory_keeps_its_contents(void **state)
{
    struct mem *m = *state;
    static uint8_t rom[4096] __attribute__((aligned(4096)));
    rom[5] = 42;
    assert_true(mem_add_host(m, HPA(0xf0000), rom, sizeof rom, true));
    assert_null(mem_host(m, HPA(0xf0000), 1, true));
    mem_write(m, HPA(0xf0005), "x", 1);
    assert_int_equal(rom[5], 42);
}

struct seen {
    unsigned count, size[8];
    uint64_t at[8], value[8];
};

static uint64_t seen_read(void *opaque, hpa_t pa, unsigned size)
{
    struct seen *s = opaque;
    s->at[s->count] = pa.v;
    s->size[s->count++] = size;
    return 0x0807060504030201;
}

static void seen_write(void *opaque, hpa_t pa, unsigned size, uint64_t value)
{
    struct seen *s = opaque;
    s->at[s->count] = pa.v;
    s->value[s->count] = value;
    s->size[s->count++] = size;
}

static void mmio_sees_natural_sizes(void **state)
{
    static const struct mem_mmio_ops ops = {seen_read, seen_write};
    struct mem *m = *state;
    struct seen s = {0};
    uint8_t buf[8] = {0};
    assert_true(mem_add_mmio(m, HPA(0x1000), 0x1000, &ops, &s));
    mem_read(m, HPA(0x1002), buf, 6);
    assert_int_equal(s.count, 2);
    assert_int_equal(s.at[0], 0x1002);
    assert_int_equal(s.size[0], 2);
    assert_int_equal(s.at[1], 0x1004);
    assert_int_equal(s.size[1], 4);
    assert_int_equal(buf[2], 1);
    s.count = 0;
    uint32_t v = 0xaabbccdd;
    mem_write(m, HPA(0x1008), &v, 4);
    assert_int_equal(s.count, 1);
    assert_int_equal(s.value[0], 0xaabbccdd);
}

static void a_device_write_to_a_noted_page_raises_the_epoch(void **state)
{
    struct mem *m = *state;
    assert_true(mem_add_ram(m, HPA(0), 0x3000));
    mem_code_note(m, HPA(0x1000));
    uint32_t epoch = mem_code_epoch(m);
    mem_write(m, HPA(0x2000), "x", 1);
    assert_int_equal(mem_code_epoch(m), epoch);
    mem_write(m, HPA(0x1fff), "x", 1);
    assert_int_not_equal(mem_code_epoch(m), epoch);
    mem_code_unnote(m, HPA(0x1000));
    assert_int_equal(mem_code_noted(m, HPA(0x1000)), 0);
}

static void count_listener(void *opaque, hpa_t page)
{
    *(uint64_t *)opaque += page.v;
}

static void address_line_20(void **state)
{
    struct mem *m = *state;
    uint32_t v = 0x11111111, got = 0;
    assert_true(mem_add_ram(m, HPA(0), 0x400000));
    mem_write(m, HPA(0x200010), &v, 4);
    mem_set_a20(m, false);
    mem_read(m, HPA(0x300010), &got, 4);
    assert_int_equal(got, 0x11111111);
    v = 0x22222222;
    mem_write(m, HPA(0x300010), &v, 4);
    assert_null(mem_host(m, HPA(0x1ff800), 4096, false)); /* no longer one piece */
    assert_ptr_equal(mem_host(m, HPA(0x100000), 16, false), mem_host(m, HPA(0), 16, false));
    mem_set_a20(m, true);
    mem_read(m, HPA(0x300010), &got, 4);
    assert_int_equal(got, 0);
    mem_read(m, HPA(0x200010), &got, 4);
    assert_int_equal(got, 0x22222222);
}

static void shadow_below_1_mib(void **state)
{
    struct mem *m = *state;
    uint32_t v = 0x11111111, got = 0;
    assert_true(mem_add_ram(m, HPA(0), 0x200000));
    mem_set_shadow(m, 0xfffc, 0x7ffe); /* the first part neither, the second writes alone, the last reads alone */
    assert_null(mem_host(m, HPA(0xc0000), 16, false));
    assert_null(mem_host(m, HPA(0xbfff0), 32, false));
    assert_non_null(mem_host(m, HPA(0xbfff0), 16, true));
    assert_null(mem_host(m, HPA(0xc4000), 16, true));
    mem_write(m, HPA(0xc4000), &v, 4);
    mem_read(m, HPA(0xc4000), &got, 4);
    assert_int_equal(got, 0xffffffff);
    mem_write(m, HPA(0xffffc), &v, 4);
    mem_read(m, HPA(0xffffc), &got, 4);
    assert_int_equal(got, 0);
    assert_non_null(mem_host(m, HPA(0xffff0), 32, false));
    assert_null(mem_host(m, HPA(0xffff0), 32, true));
    mem_set_shadow(m, 0xffff, 0xffff);
    mem_read(m, HPA(0xc4000), &got, 4);
    assert_int_equal(got, 0x11111111);
}

static void every_listener_hears_of_a_code_page(void **state)
{
    struct mem *m = *state;
    uint64_t a = 0, b = 0;
    assert_true(mem_add_listener(m, count_listener, &a));
    assert_true(mem_add_listener(m, count_listener, &b));
    mem_code_note(m, HPA(0x5000));
    mem_remove_listener(m, &a);
    mem_code_note(m, HPA(0x6000));
    assert_int_equal(a, 0x5000);
    assert_int_equal(b, 0xb000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
    const struct CMUnitTest tests[] = {
        T(regions_do_not_overlap),
        T(odd_or_empty_or_wrapping_regions_are_refused),
        T(host_pointers_stay_inside_their_region),
        T(nothing_of_the_host_lies_beside_ram),
        T(phys_is_the_inverse_of_host),
        T(holes_read_as_ones_and_drop_writes),
        T(read_only_memory_keeps_its_contents),
        T(mmio_sees_natural_sizes),
        T(a_device_write_to_a_noted_page_raises_the_epoch),
        T(address_line_20),
        T(shadow_below_1_mib),
        T(every_listener_hears_of_a_code_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
