// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/seccomp_filter.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vhost-user-backend/base/unique_fd.h"

namespace outrigger {
namespace {

struct ReleaseContext {
    void operator()(void* context) const { ::seccomp_release(context); }
};

using Context = std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, ReleaseContext>;

Result<void> check(int result, const std::string& doing) {
    if (result < 0) {
        return failure(error_from_code("cannot " + doing, -result));
    }
    return {};
}

Result<void> add_rule(scmp_filter_ctx context, const SystemCallRule& rule, int number) {
    std::vector<scmp_arg_cmp> tests;
    for (const ArgumentTest& test : rule.tests) {
        if (test.mask != 0) {
            tests.push_back({.arg = test.index,
                             .op = SCMP_CMP_MASKED_EQ,
                             .datum_a = test.mask,
                             .datum_b = test.value});
        }
    }
    const uint32_t action = rule.error == 0 ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(rule.error);
    const int result = ::seccomp_rule_add_array(
        context, action, number, static_cast<unsigned>(tests.size()), tests.data());
    // The same rule twice is one rule.
    return result == -EEXIST ? Result<void>{}
                             : check(result, std::string("add a rule for ") + rule.name);
}

Result<std::vector<sock_filter>> export_program(scmp_filter_ctx context) {
    const UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
    if (!file.valid()) {
        return failure(error_from_errno("cannot create a file for a system call filter"));
    }
    OUTRIGGER_TRY(check(::seccomp_export_bpf(context, file.get()), "compile a system call filter"));

    struct stat status {};

    if (::fstat(file.get(), &status) != 0) {
        return failure(error_from_errno("cannot measure a system call filter"));
    }
    std::vector<sock_filter> program(static_cast<size_t>(status.st_size) / sizeof(sock_filter));
    const size_t bytes = program.size() * sizeof(sock_filter);
    if (::pread(file.get(), program.data(), bytes, 0) != static_cast<ssize_t>(bytes)) {
        return failure(error_from_errno("cannot read a system call filter"));
    }
    return program;
}

}  // namespace

Result<SeccompFilter> SeccompFilter::compile(std::span<const SystemCallRule> policy,
                                             Violation violation) {
    const uint32_t refusal = violation == Violation::kKill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_TRAP;
    const Context context(::seccomp_init(refusal));
    if (context == nullptr) {
        return failure(Error{.message = "cannot begin a system call filter"});
    }
    // Calls by the numbers of another architecture (32 bits on 64) mean something else.
    OUTRIGGER_TRY(check(::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, refusal),
                        "prepare a system call filter"));
    // A tree in place of a chain; the kernel remembers calls that are always allowed all the same.
    OUTRIGGER_TRY(check(::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2),
                        "prepare a system call filter"));
    for (const SystemCallRule& rule : policy) {
        const int number = ::seccomp_syscall_resolve_name(rule.name);
        if (number < 0) {
            continue;  // not on this architecture
        }
        // A refusal would take the place of the rules that allow the call.
        const bool allowed = std::ranges::any_of(policy, [&](const SystemCallRule& other) {
            return other.error == 0 && std::string_view(other.name) == rule.name;
        });
        if (rule.error == 0 || !allowed) {
            OUTRIGGER_TRY(add_rule(context.get(), rule, number));
        }
    }
    return SeccompFilter(OUTRIGGER_TRY(export_program(context.get())));
}

Result<SeccompFilter> SeccompFilter::compile_denials(std::span<const SystemCallRule> forbidden) {
    const Context context(::seccomp_init(SCMP_ACT_ALLOW));
    if (context == nullptr) {
        return failure(Error{.message = "cannot begin a system call filter"});
    }
    OUTRIGGER_TRY(
        check(::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
              "prepare a system call filter"));
    OUTRIGGER_TRY(check(::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2),
                        "prepare a system call filter"));
    for (const SystemCallRule& rule : forbidden) {
        OUTRIGGER_ASSERT(rule.error != 0);
        const int number = ::seccomp_syscall_resolve_name(rule.name);
        if (number >= 0) {
            OUTRIGGER_TRY(add_rule(context.get(), rule, number));
        }
    }
    return SeccompFilter(OUTRIGGER_TRY(export_program(context.get())));
}

int SeccompFilter::enter() const {
    const sock_fprog program{.len = static_cast<unsigned short>(program_.size()),
                             // The kernel only reads it; the interface has no const.
                             .filter = const_cast<sock_filter*>(program_.data())};
    return ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0 ? 0 : errno;
}

}  // namespace outrigger
