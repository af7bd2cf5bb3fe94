/* SPDX-License-Identifier: MIT
 *
 * test_intrin_random.c: the intrinsics with random and boundary operands, in any order, on every model: each gives a
 * documented result or an event, and the process lives. Guests are not entered: what they may do is tested elsewhere.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/unit/vmx_host.h"

static uint64_t seed;
static unsigned events[256];

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

/* Mostly what is near something. */
static uint64_t any(void)
{
    static const uint64_t near[] = {0,          1,          0x10,       0x18,       0x40,       0x1000,    0x2000,
                                    0x80000000, 0xc0000080, 0xc0000100, 0xc0010117, 0x480,      0x802,     0x681e,
                                    0x4000,     0x7fff,     0xffffffff, 1ull << 47, 1ull << 52, 1ull << 63};
    uint64_t r = random64(), v = near[r % (sizeof near / sizeof near[0])];
    switch (r >> 32 & 7) {
    case 0: return random64();
    case 1: return v + (random64() & 0xff);
    case 2: return v - (random64() & 0xff);
    case 3: return ~v;
    default: return v;
    }
}

static void on_event(void *opaque, const struct vmenter_event *event)
{
    events[event->vector]++;
    assert_true(event->vector < 32 || event->is_interrupt || event->vector == 0x2c);
    assert_non_null(event->rule);
}

static void result(unsigned char r)
{
    assert_true(r <= 2);
}

static void one(void)
{
    unsigned long long pa = any(), d[2] = {any(), any()};
    unsigned char table[16];
    size_t value;
    int info[4];
    unsigned aux;
    switch (random64() % 64) {
    case 0: result(__vmx_on(&pa)); break;
    case 1: __vmx_off(); break;
    case 2: result(__vmx_vmclear(&pa)); break;
    case 3: result(__vmx_vmptrld(&pa)); break;
    case 4: __vmx_vmptrst(&pa); break;
    case 5: result(__vmx_vmread(any(), &value)); break;
    case 6: result(__vmx_vmwrite(any(), any())); break;
    case 7: result(__vmx_invept(any() & 3, d)); break;
    case 8: result(__vmx_invvpid(any() & 7, d)); break;
    case 9: __svm_vmload(any()); break;
    case 10: __svm_vmsave(any()); break;
    case 11: __svm_clgi(); break;
    case 12: __svm_stgi(); break;
    case 13: __svm_invlpga((void *)(uintptr_t)any(), (int)any()); break;
    case 14:
    case 15: __readmsr((unsigned)any()); break;
    case 16:
    case 17: __writemsr((unsigned)any(), any()); break;
    case 18: __readcr0(); break;
    case 19: __writecr0(__readcr0() ^ (1ull << (random64() & 63))); break;
    case 20: __writecr2(any()); break;
    case 21: __writecr3(any()); break;
    case 22: __writecr4(__readcr4() ^ (1ull << (random64() & 63))); break;
    case 23: __writecr8(any() & 31); break;
    case 24: __readdr((unsigned)any() & 7); break;
    case 25: __writedr((unsigned)any() & 7, any()); break;
    case 26: __writeeflags(any()); break;
    case 27: _disable(); break;
    case 28: _enable(); break;
    case 29: _xgetbv((unsigned)any() & 3); break;
    case 30: _xsetbv((unsigned)any() & 1, any()); break;
    case 31: __cpuidex(info, (int)any(), (int)any()); break;
    case 32: __rdtsc(); break;
    case 33: __rdtscp(&aux); break;
    case 34: __readpmc((unsigned)any()); break;
    case 35: memset(table, (int)any(), sizeof table), __lidt(table); break;
    case 36: memset(table, (int)any(), sizeof table), _lgdt(table); break;
    case 37: _sgdt(table), __sidt(table); break;
    case 38: __segmentlimit((unsigned)any()); break;
    case 39: _lar((unsigned short)any()); break;
    case 40: _ltr((unsigned short)any()); break;
    case 41: _lldt((unsigned short)any()); break;
    case 42: _writeds((unsigned short)any()); break;
    case 43: _writess((unsigned short)any()); break;
    case 44: _writefs((unsigned short)any()); break;
    case 45: _swapgs(); break;
    case 46: _writegsbase_u64(any()); break;
    case 47: __readgsqword((unsigned)any()); break;
    case 48: __writegsbyte((unsigned)any(), 1); break;
    case 49: __incfsdword((unsigned)any()); break;
    case 50: __invlpg((void *)(uintptr_t)any()); break;
    case 51: _invpcid((unsigned)any() & 7, d); break;
    case 52: __wbinvd(); break;
    case 53: __indword((unsigned short)any()); break;
    case 54: __outword((unsigned short)any(), 1); break;
    case 55: __ud2(); break;
    case 56: __int2c(); break;
    case 57: _clac(), _stac(); break;
    case 58: _str(), _sldt(), _readcs(); break;
    case 59: __svm_skinit((int)any()); break;
    case 60: __vmx_vmfunc((unsigned)any(), 0); break;
    case 61: _rdrand64_step(&pa); break;
    case 62: vmx_init_region(vmenter_host_ptr(vmenter_bound(), 0x1000 * (1 + (random64() & 3)), 4096)); break;
    case 63: __readeflags(); break;
    }
}

static void test_random(void **state)
{
    seed = 0x9e3779b97f4a7c15ull;
    for (unsigned model = 0; vmenter_model(model); model++)
        for (unsigned round = 0; round < 20; round++) {
            struct vmenter_config config = {
                .size = sizeof config, .model = vmenter_model(model)->name, .ram = 1 << 20, .cpus = 1 + round % 2};
            struct vmenter_machine *m;
            assert_int_equal(vmenter_create(&config, &m, NULL), VMENTER_OK);
            assert_int_equal(vmenter_bind(m, 0), VMENTER_OK);
            vmenter_set_event_handler(m, on_event, m);
            if (round & 1)
                __writecr4(__readcr4() | CR4_VMXE_BIT), __writemsr(0xc0000080, __readmsr(0xc0000080) | 0x1000);
            for (unsigned i = 0; i < 1000; i++)
                one();
            vmenter_destroy(m);
        }
    assert_true(events[6] > 1000 && events[13] > 1000); /* it went to the edges */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
