// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/sandbox.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <time.h>

#include "vhost-user-backend/base/build.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/capabilities.h"
#include "vhost-user-backend/daemon/landlock.h"
#include "vhost-user-backend/daemon/namespaces.h"
#include "vhost-user-backend/daemon/sanitizers.h"
#include "vhost-user-backend/daemon/seccomp_filter.h"
#include "vhost-user-backend/daemon/seccomp_policy.h"
#include "vhost-user-backend/daemon/system_call_trap.h"
#include "vhost-user-backend/io/helper_thread.h"

namespace outrigger {
namespace {

// What drop_access() came to, for enter_sandbox(). Both run on the main thread.
bool landlock_holds = false;

// Leaked on purpose: helper threads may start until the process is gone.
const SeccompFilter* helper_filter = nullptr;

void enter_helper_filter() {
    if (helper_filter->enter() != 0) {
        log(LogLevel::kError, "a helper thread cannot enter its system call filter: giving up");
        std::abort();
    }
}

/// Capabilities and Landlock bind a thread and its later children, and no thread that exists.
Result<void> check_single_thread() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        // ThreadSanitizer has a thread of its own.
        if (!line.starts_with("Threads:")) {
            continue;
        }
        if (line != "Threads:\t1" && !kThreadSanitizer) {
            return failure(Error{.message = "a device started a thread before the sandbox: it must "
                                            "wait for start_queue()"});
        }
        return {};
    }
    return failure(Error{.message = "/proc/self/status does not tell whether a device started a "
                                    "thread before the sandbox: mount /proc (--sandbox=none goes "
                                    "without)"});
}

Result<SeccompFilter> compile_for(ThreadRole role,
                                  SandboxMode mode,
                                  const SandboxNeeds& needs,
                                  bool has_ring = false) {
    return SeccompFilter::compile(
        policy_of(role, needs, {.names_are_held = landlock_holds, .has_ring = has_ring}),
        mode == SandboxMode::kLog ? Violation::kTrap : Violation::kKill);
}

Result<void> check_entered(int os_error) {
    if (os_error != 0) {
        return failure(error_from_code(
            "cannot enter the system call filter (--sandbox=none goes without)", os_error));
    }
    return {};
}

/// Sockets of others come back in folders that are made anew: what is below the first folder of
/// their names stays where it is, as the name says and as links in it lead.
void add_place_of(const std::string& socket_path, std::vector<std::string>& places) {
    std::error_code error;
    const std::filesystem::path absolute = std::filesystem::absolute(socket_path, error);
    const std::filesystem::path real = std::filesystem::weakly_canonical(absolute, error);
    for (const std::filesystem::path& path : {absolute, real}) {
        if (path.has_relative_path()) {
            places.push_back((path.root_path() / *path.relative_path().begin()).string());
        }
    }
}

NamespacePlan namespaces_for(const SandboxExtras& extras) {
    NamespacePlan plan{.visible_paths = extras.readable_paths,
                       .keeps_network = extras.keeps_network || extras.any_tcp ||
                                        !extras.connect_tcp_ports.empty(),
                       .shows_owners = extras.shows_owners};
    std::vector<std::string>& visible = plan.visible_paths;
    for (const std::string& socket_path : extras.connect_paths) {
        add_place_of(socket_path, visible);
    }
    for (const auto* const directories :
         {&extras.removable_directories, &extras.writable_directories}) {
        visible.insert(visible.end(), directories->begin(), directories->end());
    }
    if (kPortableBuild) {
        visible.emplace_back("/dev/shm");
    }
    return plan;
}

Result<void> note_lack(SandboxMode mode, const std::string& lack) {
    if (mode == SandboxMode::kStrict) {
        return failure(Error{.message = "--sandbox=strict: " + lack});
    }
    log(LogLevel::kInfo, "sandbox: {}: the other layers stand without", lack);
    return {};
}

/// All at the same time, and waits for each.
Result<void> enter_on_workers(const SeccompFilter& with_ring,
                              const SeccompFilter& without_ring,
                              std::span<Worker* const> workers) {
    std::vector<std::promise<int>> entered(workers.size());
    for (size_t i = 0; i < workers.size(); ++i) {
        workers[i]->post([&, &worker = *workers[i], &outcome = entered[i]] {
            outcome.set_value(
                (worker.loop().uring() != nullptr ? with_ring : without_ring).enter());
        });
    }
    int os_error = 0;
    for (std::promise<int>& outcome : entered) {
        os_error = std::max(os_error, outcome.get_future().get());
    }
    return check_entered(os_error);
}

}  // namespace

Result<DroppedAccess> drop_access(SandboxMode mode,
                                  std::span<const int> removable_below,
                                  const SandboxExtras& extras,
                                  Result<void> (*isolate)()) {
    OUTRIGGER_TRY(check_single_thread());
    // Log lines show local time, and the file that says what that is cannot be read any more.
    ::tzset();
    if (isolate != nullptr) {
        OUTRIGGER_TRY(isolate());
    }
    const OwnNamespaces entered = OUTRIGGER_TRY(enter_own_namespaces(namespaces_for(extras)));
    if (!entered.lack.empty()) {
        OUTRIGGER_TRY(note_lack(mode, entered.lack));
    }
    OUTRIGGER_TRY(drop_capabilities(extras.kept_capabilities));
    landlock_holds = OUTRIGGER_TRY(restrict_by_landlock(removable_below, extras));
    if (!landlock_holds && mode == SandboxMode::kStrict) {
        return failure(Error{.message = "--sandbox=strict: there is no Landlock here"});
    }
    return DroppedAccess{.others_look_like = entered.others_look_like};
}

std::span<const SystemCallRule> userfault_system_calls() {
    // By number, as the kernel's headers have them since 6.1.
    constexpr uint32_t kNewByDevice = _IO(0xAA, 0x00);  // USERFAULTFD_IOC_NEW
    constexpr uint32_t kUserfaultFlags = O_CLOEXEC | O_NONBLOCK;
    static constexpr SystemCallRule kRules[] = {
        {.name = "ioctl", .tests = {argument_is(1, kNewByDevice)}},
        {.name = "userfaultfd", .tests = {argument_is(0, kUserfaultFlags)}},
        {.name = "ioctl", .tests = {argument_is(1, UFFDIO_API)}},
        {.name = "ioctl", .tests = {argument_is(1, UFFDIO_REGISTER)}},
        {.name = "ioctl", .tests = {argument_is(1, UFFDIO_UNREGISTER)}},
        {.name = "ioctl", .tests = {argument_is(1, UFFDIO_WAKE)}},
    };
    return kRules;
}

Result<void> enter_sandbox(SandboxMode mode,
                           const SandboxNeeds& needs,
                           std::span<Worker* const> workers) {
    if (mode == SandboxMode::kLog) {
        OUTRIGGER_TRY(install_system_call_trap());
    }
    const auto control = OUTRIGGER_TRY(compile_for(ThreadRole::kControl, mode, needs));
    constexpr bool kHasRing = true;
    const auto worker = OUTRIGGER_TRY(compile_for(ThreadRole::kWorker, mode, needs));
    const auto ring_worker = OUTRIGGER_TRY(compile_for(ThreadRole::kWorker, mode, needs, kHasRing));
    helper_filter = new SeccompFilter(OUTRIGGER_TRY(compile_for(ThreadRole::kHelper, mode, needs)));
    set_helper_thread_entry(enter_helper_filter);
    OUTRIGGER_TRY(enter_on_workers(ring_worker, worker, workers));
    return check_entered(control.enter());
}

}  // namespace outrigger
