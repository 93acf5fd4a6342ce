// SPDX-License-Identifier: Apache-2.0
/// What all queues of a share have in common: INIT, the files that are asked for, and the queue of
/// high priority. All that is made in the share lies in one directory, which goes again at the end.
///
/// Bound to the main thread, but for forget().
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vhost-user-backend/base/result.h"

#include "tools/driver/bring_up.h"
#include "tools/driver/guest_memory.h"
#include "tools/outrigger-bench/bench_options.h"
#include "tools/outrigger-bench/fuse_chain.h"

namespace outrigger::bench {

/// A file of the share, as the guest knows it.
struct ShareFile {
    std::string name;
    uint64_t node = 0;
    uint64_t inode = 0;
};

class FuseSession final {
  public:
    /// Guest memory for what it does itself.
    [[nodiscard]] static uint64_t guest_bytes();

    /// Agrees with the share, and makes what the plan needs there. `device` has the queue of high
    /// priority and then those of requests.
    [[nodiscard]] static Result<std::shared_ptr<FuseSession>> create(const BenchPlan& plan,
                                                                     driver::RunningDevice& device,
                                                                     driver::GuestMemory& memory);

    FuseSession(const FuseSession&) = delete;
    FuseSession& operator=(const FuseSession&) = delete;
    /// Cleans up where nobody has.
    ~FuseSession();

    /// A new file of the directory, open: its handle, and what it is. `flags` of open(2).
    struct OpenFile {
        ShareFile file;
        uint64_t handle = 0;
    };

    [[nodiscard]] Result<OpenFile> create_file(const std::string& name, uint32_t flags);

    /// A handle of the directory.
    [[nodiscard]] Result<uint64_t> open_directory();

    /// The node of the directory.
    [[nodiscard]] uint64_t directory() const { return directory_; }

    /// --files of them, for requests that are not of data.
    [[nodiscard]] const std::vector<ShareFile>& files() const { return files_; }

    /// One look-up of that node less. From any thread. False: the queue of high priority is stuck.
    [[nodiscard]] bool forget(uint64_t node);

    /// There may be a file of that name in the end.
    void note_name(std::string name) { names_.push_back(std::move(name)); }

    /// Removes what was made, if the share still answers. Does nothing when it was called before.
    [[nodiscard]] Result<void> clean_up();

  private:
    static constexpr size_t kForgetsAtATime = 32;
    static constexpr size_t kForgetChains = 4;

    FuseSession(const BenchPlan& plan, driver::RunningDevice& device);

    [[nodiscard]] Result<void> initialize();
    [[nodiscard]] Result<void> make_directory();
    [[nodiscard]] Result<void> make_files();
    [[nodiscard]] Result<void> release(uint64_t node, uint64_t handle);
    [[nodiscard]] Result<void> remove(uint32_t opcode, uint64_t parent, const std::string& name);
    /// The request that chain_ has. Errors: `what` and why not.
    [[nodiscard]] Result<void> ask(std::string_view what);
    [[nodiscard]] bool send_forgets();

    const std::chrono::milliseconds patience_;
    const uint32_t block_bytes_;
    const uint32_t file_count_;
    driver::DriverQueue& priority_queue_;
    driver::DriverQueue& queue_;
    const driver::ChainLayout layout_;
    std::optional<FuseChain> chain_;
    std::string directory_name_;
    uint64_t directory_ = 0;
    std::vector<ShareFile> files_;
    std::vector<std::string> names_;  // that may be in the directory
    bool made_ = false;               // the directory is there

    std::mutex mutex_;  // all below
    std::vector<FuseChain> forget_chains_;
    std::vector<size_t> free_chains_;
    std::array<uint64_t, kForgetsAtATime> forgotten_{};
    size_t forgotten_count_ = 0;
};

}  // namespace outrigger::bench
