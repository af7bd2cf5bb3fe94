/* SPDX-License-Identifier: MIT
 *
 * test_intrin_cxx.cc: <vmenter/intrin.h> in C++17: MSVC's types, both kinds of 64-bit pointers, functions as values,
 * exceptions out of the event handler.
 */
#include <cstdarg>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

extern "C" {
#include <cmocka.h>
}

#include <vmenter/svm.h>

#include "tests/unit/vmx_host.h"

/* The types that MSVC documents. */
static_assert(std::is_same<decltype(&__vmx_off), void (*)()>::value, "");
static_assert(std::is_same<decltype(&__vmx_vmwrite), unsigned char (*)(std::size_t, std::size_t)>::value, "");
static_assert(std::is_same<decltype(&__vmx_vmlaunch), unsigned char (*)()>::value, "");
static_assert(std::is_same<decltype(&__vmx_vmresume), unsigned char (*)()>::value, "");
static_assert(std::is_same<decltype(&__svm_vmrun), void (*)(std::size_t)>::value, "");
static_assert(std::is_same<decltype(&__svm_invlpga), void (*)(void *, int)>::value, "");
static_assert(std::is_same<decltype(&__svm_skinit), void (*)(int)>::value, "");
static unsigned char (*const as_msvc_vmxon)(unsigned long long *) = __vmx_on;
static unsigned char (*const as_msvc_vmread)(std::size_t, std::size_t *) = __vmx_vmread;
static void (*const as_msvc_vmptrst)(unsigned long long *) = __vmx_vmptrst;

struct fixture {
    vmenter_machine *m;
    int vector;
};

static void throwing(void *opaque, const vmenter_event *event)
{
    static_cast<fixture *>(opaque)->vector = event->vector;
    throw std::runtime_error(event->intrinsic);
}

static fixture *start(const char *model)
{
    fixture *f = new fixture{nullptr, -1};
    vmenter_config config = {};
    config.size = sizeof config;
    config.model = model;
    config.ram = 1 << 20;
    assert_int_equal(vmenter_create(&config, &f->m, nullptr), VMENTER_OK);
    assert_int_equal(vmenter_bind(f->m, 0), VMENTER_OK);
    vmenter_set_event_handler(f->m, throwing, f);
    return f;
}
static int set_up_intel(void **state)
{
    *state = start("max");
    return 0;
}
static int set_up_amd(void **state)
{
    *state = start("max-amd");
    return 0;
}
static int tear_down(void **state)
{
    fixture *f = static_cast<fixture *>(*state);
    vmenter_destroy(f->m);
    delete f;
    return 0;
}

template <typename F> static int vector_of(fixture *f, F call)
{
    f->vector = -1;
    try {
        call();
    } catch (const std::runtime_error &e) {
        return f->vector;
    }
    return -1;
}

static void test_sixteen_vmx(void **state)
{
    fixture *f = static_cast<fixture *>(*state);
    std::uint64_t pa = 0x1000;        /* unsigned long on LP64 */
    unsigned long long wide = 0x2000; /* unsigned __int64 */
    std::uint64_t value64 = 1;
    unsigned long long wide_value = 1;
    vmx_init_region(vmenter_host_ptr(f->m, 0x1000, 4096));
    vmx_init_region(vmenter_host_ptr(f->m, 0x2000, 4096));

    assert_int_equal(vector_of(f, [&] { __vmx_on(&pa); }), 6);
    assert_int_equal(vector_of(f, [&] { __vmx_off(); }), 6);
    assert_int_equal(vector_of(f, [&] { __vmx_vmlaunch(); }), 6); /* through the assembly entry's frame */
    assert_int_equal(vector_of(f, [&] { __vmx_vmresume(); }), 6);
    assert_int_equal(vector_of(f, [&] { __vmx_vmclear(&wide); }), 6);
    assert_int_equal(vector_of(f, [&] { __vmx_vmptrst(&pa); }), 6);

    __writecr4(__readcr4() | CR4_VMXE_BIT);
    pa = 0x1000;
    assert_int_equal(__vmx_on(&pa), 0);
    assert_int_equal(__vmx_vmclear(&wide), 0);
    assert_int_equal(__vmx_vmptrld(&wide), 0);
    __vmx_vmptrst(&pa);
    assert_true(pa == 0x2000);
    assert_int_equal(__vmx_vmwrite(VMCS_GUEST_RIP, 0x77), 0);
    assert_int_equal(__vmx_vmread(VMCS_GUEST_RIP, &value64), 0);
    assert_int_equal(__vmx_vmread(VMCS_GUEST_RIP, &wide_value), 0);
    assert_true(value64 == 0x77 && wide_value == 0x77);
    assert_int_equal(__vmx_vmresume(), 1);
    assert_int_equal(vmx_field(VMCS_VM_INSTRUCTION_ERROR), VMX_ERR_VMRESUME_NONLAUNCHED);
    assert_int_equal(__vmx_vmlaunch(), 1);
    assert_int_equal(vmx_field(VMCS_VM_INSTRUCTION_ERROR), VMX_ERR_ENTRY_INVALID_CONTROLS);

    vmx_host_and_guest(0x8000, 0x9000);
    memcpy(vmenter_host_ptr(f->m, 0x8000, 16), "\x48\xff\xc3\xf4", 4); /* inc rbx; hlt */
    vmenter_regs regs = {};
    regs.rbx = 41;
    assert_int_equal(vmenter_vmlaunch(&regs), 0);
    assert_true(regs.rbx == 42 && vmx_field(VMCS_EXIT_REASON) == VMX_REASON_HLT);
    __vmx_off();
    assert_int_equal(vector_of(f, [&] { __vmx_vmread(VMCS_GUEST_RIP, &value64); }), 6);
}

static void test_sixteen_svm(void **state)
{
    fixture *f = static_cast<fixture *>(*state);
    assert_int_equal(vector_of(f, [&] { __svm_vmrun(0x1000); }), 6);
    assert_int_equal(vector_of(f, [&] { __svm_vmload(0x1000); }), 6);
    assert_int_equal(vector_of(f, [&] { __svm_vmsave(0x1000); }), 6);
    assert_int_equal(vector_of(f, [&] { __svm_clgi(); }), 6);
    assert_int_equal(vector_of(f, [&] { __svm_invlpga(nullptr, 1); }), 6);
    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, 0x3000);
    assert_int_equal(vector_of(f, [&] { __svm_vmrun(0x1001); }), 13);
    __svm_vmsave(0x1000);
    __svm_vmload(0x1000);
    __svm_clgi();
    __svm_stgi();
    __svm_invlpga(nullptr, 1);
    vmcb *v = static_cast<vmcb *>(vmenter_host_ptr(f->m, 0x1000, 4096));
    __svm_vmrun(0x1000);
    assert_true(v->control.exitcode == static_cast<std::uint64_t>(SVM_EXIT_INVALID));
}

/* Sources written for MSVC. */
static void test_unprivileged(void **state)
{
    assert_true(as_msvc_vmxon && as_msvc_vmread && as_msvc_vmptrst);
    unsigned long index = 99; /* MSVC's ULONG, undeclared as anything else */
    unsigned index32 = 99;
    assert_int_equal(_BitScanForward(&index, 0x50), 1);
    assert_int_equal(index, 4);
    assert_int_equal(_BitScanReverse64(&index32, 1ull << 40), 1);
    assert_int_equal(index32, 40);
    assert_int_equal(_BitScanForward(&index, 0), 0);
    long l = 5;
    int i = 5;
    assert_int_equal(_InterlockedIncrement(&l), 6);
    assert_int_equal(_InterlockedDecrement(&i), 4);
    assert_int_equal(_InterlockedExchangeAdd(&i, 3), 4);
    assert_int_equal(_InterlockedCompareExchange(&i, 9, 7), 7);
    assert_int_equal(i, 9);
    assert_int_equal(_InterlockedOr(&i, 0x10), 9);
    void *volatile p = nullptr;
    assert_ptr_equal(_InterlockedExchangePointer(&p, &l), nullptr);
    assert_ptr_equal(_InterlockedCompareExchangePointer(&p, nullptr, &l), &l);
    assert_ptr_equal(p, nullptr);
    alignas(16) long long pair[2] = {1, 2}, want[2] = {1, 2};
    assert_int_equal(_InterlockedCompareExchange128(pair, 4, 3, want), 1);
    assert_true(pair[0] == 3 && pair[1] == 4);
    assert_int_equal(_InterlockedCompareExchange128(pair, 6, 5, want), 0);
    assert_true(want[0] == 3 && want[1] == 4);

    unsigned int bits[3] = {0, 0, 0};
    assert_int_equal(_bittestandset(reinterpret_cast<long *>(&bits[1]), 33), 0);
    assert_int_equal(bits[2], 2);
    assert_int_equal(_bittest64(reinterpret_cast<long long *>(bits), 65), 1);
    assert_int_equal(_interlockedbittestandreset(reinterpret_cast<long *>(&bits[2]), -31), 0); /* a signed bit offset */
    assert_int_equal(_bittestandcomplement(reinterpret_cast<long *>(bits), 65), 1);
    assert_int_equal(bits[2], 0);

    unsigned long long high;
    assert_true(_umul128(~0ull, ~0ull, &high) == 1 && high == ~0ull - 1);
    assert_true(__umulh(1ull << 63, 4) == 2 && __mulh(-1, 1) == -1);
    assert_true(__shiftleft128(1ull << 63, 1, 1) == 3 && __shiftright128(0, 1, 1) == 1ull << 63);
    assert_true(__ull_rshift(256, 68) == 16 && __ll_lshift(1, 65) == 2);
    assert_true(_rotl(0x80000001u, 1) == 3 && _rotr64(1, 1) == 1ull << 63 && _rotl8(0x81, 1) == 3);
    assert_true(__popcnt64(~0ull) == 64 && __lzcnt(0) == 32 && __lzcnt64(1) == 63 && __lzcnt16(1) == 15);
    assert_true(_byteswap_ulong(0x11223344) == 0x44332211);
    unsigned char text[8];
    __stosb(text, 7, 8);
    __movsb(text, reinterpret_cast<const unsigned char *>("ab"), 2);
    assert_true(text[0] == 'a' && text[2] == 7);
    unsigned dwords[4] = {0};
    __stosd(reinterpret_cast<unsigned long *>(dwords), 5, 3);
    assert_true(dwords[2] == 5 && dwords[3] == 0);
    assert_true(_ReturnAddress() != nullptr && _AddressOfReturnAddress() != nullptr);
    _ReadWriteBarrier();
    _mm_pause();
    _mm_lfence();
}

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sixteen_vmx, set_up_intel, tear_down),
        cmocka_unit_test_setup_teardown(test_sixteen_svm, set_up_amd, tear_down),
        cmocka_unit_test(test_unprivileged),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
