// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fs_control.h"

#include <array>
#include <string>

#include <string.h>

#include <outrigger_control.pb.h>

#include "vhost-user-backend/control/printable_text.h"

#include "devices/fs/fs_device.h"

namespace outrigger::fs {
namespace {

namespace v1 = control::v1;

using Sums = std::array<uint64_t, FsCounters::kErrorsMax>;

std::string error_name(size_t error) {
#ifdef __GLIBC__
    if (const char* const name = ::strerrorname_np(static_cast<int>(error)); name != nullptr) {
        return error == 0 ? "other" : name;
    }
#endif
    return error == 0 ? "other" : std::to_string(error);
}

void add_count(std::string reason,
               uint64_t count,
               v1::ReasonCount* (v1::SharedDirectory::*add)(),
               v1::SharedDirectory& out) {
    if (count > 0) {
        v1::ReasonCount& shown = *(out.*add)();
        shown.set_reason(std::move(reason));
        shown.set_count(count);
    }
}

void describe_operations(const FsDevice& device, v1::SharedDirectory& out) {
    std::array<uint64_t, kOpcodeCount> sums{};
    for (size_t ring = 0; ring < device.ring_count(); ++ring) {
        for (uint32_t opcode = 0; opcode < kOpcodeCount; ++opcode) {
            // Numbers between those of operations are as unknown as those beyond.
            const bool is_known = !operations()[opcode].name.empty();
            sums[is_known ? opcode : 0] += device.counters(ring).operations[opcode].value();
        }
    }
    for (uint32_t opcode = 0; opcode < kOpcodeCount; ++opcode) {
        if (sums[opcode] > 0) {
            v1::OperationCount& shown = *out.add_requests();
            shown.set_operation(opcode == 0 ? "unknown" : std::string(operations()[opcode].name));
            shown.set_count(sums[opcode]);
        }
    }
}

void describe_errors(const FsDevice& device, v1::SharedDirectory& out) {
    Sums sums{};
    uint64_t malformed = 0;
    uint64_t unanswerable = 0;
    for (size_t ring = 0; ring < device.ring_count(); ++ring) {
        const FsCounters& counters = device.counters(ring);
        malformed += counters.malformed.value();
        unanswerable += counters.unanswerable.value();
        for (size_t error = 0; error < sums.size(); ++error) {
            sums[error] += counters.errors[error].value();
        }
    }
    for (size_t error = 0; error < sums.size(); ++error) {
        add_count(error_name(error), sums[error], &v1::SharedDirectory::add_failed, out);
    }
    add_count("malformed", malformed, &v1::SharedDirectory::add_refused, out);
    add_count("unanswerable", unanswerable, &v1::SharedDirectory::add_refused, out);
    for (size_t i = 0; i < kFsRefusalNames.size(); ++i) {
        add_count(std::string(kFsRefusalNames[i]),
                  device.server().refusals().value(static_cast<FsRefusal>(i)),
                  &v1::SharedDirectory::add_refused,
                  out);
    }
}

}  // namespace

void FsControl::describe(v1::Device& out) const {
    v1::SharedDirectory& share = *out.mutable_shared_directory();
    share.set_tag(control::printable(device_.settings().tag));
    share.set_read_only(device_.settings().read_only);
    describe_operations(device_, share);
    describe_errors(device_, share);
    for (size_t ring = 0; ring < device_.ring_count(); ++ring) {
        const FsCounters& counters = device_.counters(ring);
        share.set_bytes_read(share.bytes_read() + counters.bytes_read.value());
        share.set_bytes_written(share.bytes_written() + counters.bytes_written.value());
        share.set_bytes_copied(share.bytes_copied() + counters.bytes_copied.value());
        share.set_given_to_pool(share.given_to_pool() + counters.pool_jobs.value());
        share.set_given_to_kernel(share.given_to_kernel() + counters.uring_reads.value());
        share.set_lock_waits(share.lock_waits() + counters.lock_waits.value());
        share.set_taken_up_again(share.taken_up_again() + counters.replays.value());
    }
    const FsServer& server = device_.server();
    share.set_nodes(server.inodes().size());
    share.set_nodes_remembered(server.remembered_nodes());
    share.set_open_files(server.files().size());
    share.set_nodes_opened(server.handles().open_count());
    share.set_mappings(device_.mapping_count());
    share.set_descriptors(server.held_count());
    share.set_descriptors_max(server.descriptors_max());
}

void FsControl::handle(const v1::Request& /*request*/,
                       std::vector<UniqueFd> /*fds*/,
                       Answer answer) {
    answer(failure(control::CommandError{.refusal = control::Refusal::kUnknown,
                                         .message = "a shared directory has no such command"}));
}

}  // namespace outrigger::fs
