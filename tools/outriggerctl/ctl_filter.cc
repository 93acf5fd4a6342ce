// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_filter.h"

#include <span>

#ifdef OUTRIGGER_PCAP
#include <pcap/pcap.h>
#endif

namespace outrigger::ctl {

#ifdef OUTRIGGER_PCAP

Result<void> compile_filter(const std::string& expression, control::v1::StartCapture& out) {
    constexpr int kFrameBytesMax = 65554;
    constexpr int kOptimize = 1;
    pcap_t* const pcap = ::pcap_open_dead(DLT_EN10MB, kFrameBytesMax);
    if (pcap == nullptr) {
        return failure(Error{.message = "libpcap cannot begin"});
    }
    bpf_program program{};
    const int compiled =
        ::pcap_compile(pcap, &program, expression.c_str(), kOptimize, PCAP_NETMASK_UNKNOWN);
    const std::string why = compiled == 0 ? "" : ::pcap_geterr(pcap);
    if (compiled == 0) {
        // SAFETY: libpcap has made so many of them, which live until they are freed below.
        for (const bpf_insn& each : std::span(program.bf_insns, program.bf_len)) {
            control::v1::FilterInstruction& instruction = *out.add_filter();
            instruction.set_code(each.code);
            instruction.set_jump_true(each.jt);
            instruction.set_jump_false(each.jf);
            instruction.set_k(each.k);
        }
        out.set_filter_text(expression);
        ::pcap_freecode(&program);
    }
    ::pcap_close(pcap);
    if (compiled != 0) {
        return failure(Error{.message = "--filter=" + expression + ": " + why});
    }
    return {};
}

#else

Result<void> compile_filter(const std::string& /*expression*/, control::v1::StartCapture& /*out*/) {
    return failure(Error{.message = "--filter needs a build with libpcap, which this is not"});
}

#endif

}  // namespace outrigger::ctl
