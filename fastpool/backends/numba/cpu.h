/* Which x86-64 level the processor and the operating system support: 4, 3, or 2 where it is lower; 0 on other machines. */

#ifndef FASTPOOL_CPU_H
#define FASTPOOL_CPU_H

#if defined(__x86_64__) || defined(_M_X64)

#ifdef _MSC_VER
#include <immintrin.h>
#include <intrin.h>
static void cpu_id(unsigned leaf, unsigned registers[4]) { __cpuidex((int *)registers, (int)leaf, 0); }
static unsigned long long cpu_enabled(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void cpu_id(unsigned leaf, unsigned registers[4]) {
    if (!__get_cpuid_count(leaf, 0, &registers[0], &registers[1], &registers[2], &registers[3]))
        registers[0] = registers[1] = registers[2] = registers[3] = 0;
}
static unsigned long long cpu_enabled(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}
#endif

static int cpu_level(void) {
    unsigned basic[4], extended[4], amd[4];
    cpu_id(1, basic);
    cpu_id(7, extended);
    cpu_id(0x80000001, amd);
    /* FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT */
    const unsigned of_basic = 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29;
    const unsigned of_extended = 1u << 3 | 1u << 5 | 1u << 8;
    if ((basic[2] & of_basic) != of_basic || (extended[1] & of_extended) != of_extended || !(amd[2] & 1u << 5) ||
        (cpu_enabled() & 0x6) != 0x6)
        return 2;
    /* AVX512F, DQ, CD, BW, VL */
    const unsigned of_avx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
    return (extended[1] & of_avx512) == of_avx512 && (cpu_enabled() & 0xe6) == 0xe6 ? 4 : 3;
}

#else

static int cpu_level(void) { return 0; }

#endif

#endif
