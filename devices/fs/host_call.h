// SPDX-License-Identifier: Apache-2.0
/// System calls of the requests that guests make most, without a function of the C library around
/// them: that one looks for a cancellation of its thread, and returns. Behind a system call every
/// return of a function is a wrong guess of the processor where the kernel guards its own returns,
/// so what calls these is in headers, too.
#pragma once

#include <cerrno>

#include <unistd.h>

namespace outrigger::fs {

/// What the kernel answers; an error as -errno. Integers that the kernel takes as a long are given
/// as one.
template <class A, class B, class C = long, class D = long, class E = long, class F = long>
[[nodiscard, gnu::always_inline]] inline long host_call(
    long number, A a, B b, C c = 0, D d = 0, E e = 0, F f = 0) {
#if defined(__x86_64__) && defined(__LP64__)
    long result = number;
    register D fourth asm("r10") = d;
    register E fifth asm("r8") = e;
    register F sixth asm("r9") = f;
    asm volatile("syscall"
                 : "+a"(result)
                 : "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                 : "rcx", "r11", "memory");
    return result;
#else
    const long result = ::syscall(number, a, b, c, d, e, f);
    return result == -1 ? -long{errno} : result;
#endif
}

}  // namespace outrigger::fs
