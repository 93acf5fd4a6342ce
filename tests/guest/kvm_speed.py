#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times a short guest loop on /dev/kvm and prints millions of guest instructions per second.

Some machines offer a /dev/kvm that interprets the guest (a nested one without hardware support),
and a Linux guest would need an hour to boot there. The loop runs in real mode in a virtual machine
of one page, for at most a second. Exit status: 0 with a figure, 1 when KVM does not run the loop.
"""

import ctypes
import fcntl
import mmap
import os
import signal
import struct
import sys
import time

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_EXIT_HLT = 5

CODE_AT = 0x1000
LOOP_COUNT = 20_000_000
INSTRUCTIONS_PER_ROUND = 2
SECONDS_MAX = 1.0
# dec ecx; jnz back; hlt, in 16-bit code.
CODE = bytes([0x66, 0x49, 0x75, 0xFC, 0xF4])
# struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags.
REGS = struct.Struct("=18Q")
RCX, RIP, RFLAGS = 2, 16, 17


def measure():
    """Guest instructions per second, or raises OSError or RuntimeError."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    try:
        fcntl.ioctl(vm, KVM_SET_TSS_ADDR, 0x7FFB0000)
    except OSError:
        pass  # only old Intel hosts want it
    memory = mmap.mmap(-1, 4096, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    memory[0 : len(CODE)] = CODE
    host_address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, CODE_AT, 4096, host_address))
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))

    # struct kvm_sregs begins with cs: base (u64), limit (u32), selector (u16).
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    regs = [0] * 18
    regs[RCX], regs[RIP], regs[RFLAGS] = LOOP_COUNT, CODE_AT, 2
    fcntl.ioctl(vcpu, KVM_SET_REGS, REGS.pack(*regs))

    class TimeIsUp(Exception):
        """KVM_RUN returned because of the timer."""

    def on_alarm(_number, _frame):
        raise TimeIsUp

    signal.signal(signal.SIGALRM, on_alarm)
    # Repeats, so that an alarm before KVM_RUN is entered cannot leave it running for ever.
    signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX, 0.05)
    started = time.monotonic()
    try:
        fcntl.ioctl(vcpu, KVM_RUN, 0)
    except TimeIsUp:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        took = time.monotonic() - started
    exit_reason = struct.unpack_from("=I", run, 8)[0]
    values = bytearray(REGS.size)
    fcntl.ioctl(vcpu, KVM_GET_REGS, values)
    rounds = LOOP_COUNT - (REGS.unpack(values)[RCX] & 0xFFFFFFFF)
    if rounds == 0 or (rounds == LOOP_COUNT and exit_reason != KVM_EXIT_HLT):
        raise RuntimeError(f"KVM left the loop with exit reason {exit_reason}")
    return rounds * INSTRUCTIONS_PER_ROUND / took


def main():
    try:
        rate = measure()
    except (OSError, RuntimeError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{rate / 1e6:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
