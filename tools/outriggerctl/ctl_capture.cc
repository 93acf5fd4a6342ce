// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_capture.h"

#include <span>
#include <string>

#ifdef OUTRIGGER_PCAP
#include <pcap/pcap.h>
#endif

namespace outrigger::ctl {
namespace {

namespace v1 = control::v1;

#ifdef OUTRIGGER_PCAP

/// Adds the program of `expression` to `out`.
Result<void> compile_filter(const std::string& expression, v1::StartCapture& out) {
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
            v1::FilterInstruction& instruction = *out.add_filter();
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

Result<void> compile_filter(const std::string& /*expression*/, v1::StartCapture& /*out*/) {
    return failure(Error{.message = "--filter needs a build with libpcap, which this is not"});
}

#endif

}  // namespace

/// Of the uplink by commands of their own: a daemon that knows of no such capture refuses them, and
/// takes no other.
Result<void> read_capture(const OptionValues& values, v1::Request& request) {
    v1::StartCapture& command = values.flag("uplink") ? *request.mutable_start_uplink_capture()
                                                      : *request.mutable_start_capture();
    if (const auto expression = values.text("filter")) {
        OUTRIGGER_TRY(compile_filter(*expression, command));
    }
    command.set_frame_bytes_max(static_cast<uint32_t>(values.number("frame-bytes").value_or(0)));
    command.set_file_bytes_max(values.number("file-bytes").value_or(0));
    return {};
}

void read_capture_end(const OptionValues& values, v1::Request& request) {
    if (values.flag("uplink")) {
        (void)request.mutable_stop_uplink_capture();
    } else {
        (void)request.mutable_stop_capture();
    }
}

}  // namespace outrigger::ctl
