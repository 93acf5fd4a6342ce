// SPDX-License-Identifier: Apache-2.0
// A back end with shared memory: an entropy device, because a guest has a driver for it, whose
// random bytes are all alike and which maps pieces of files into its region when its queue begins,
// and makes two of the files longer and shorter. tests/nested/look_into_window.cc looks at them
// from the guest.
#include <array>
#include <chrono>
#include <memory>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/daemon/device_program.h"
#include "vhost-user-backend/frontend.h"

#include "tests/nested/window.h"

namespace outrigger {
namespace {

constexpr std::array kRegions = {window::kBytes};
constexpr uint32_t kVirtioIdEntropy = 4;

/// Makes a file so long, of pages that say which of it they are.
void fill(int file, uint64_t pages) {
    if (::ftruncate(file, static_cast<off_t>(pages * window::kPage)) != 0) {
        log(LogLevel::kError, "window: cannot resize a file");
    }
    for (uint64_t page = 0; page < pages; ++page) {
        std::array<std::byte, window::kPage> content{};
        content.fill(window::content_of(page));
        if (::pwrite(
                file, content.data(), content.size(), static_cast<off_t>(page * window::kPage)) !=
            static_cast<ssize_t>(content.size())) {
            log(LogLevel::kError, "window: cannot fill a file");
        }
    }
}

UniqueFd make_file(uint64_t pages) {
    UniqueFd file(::memfd_create("window", MFD_CLOEXEC));
    fill(file.get(), pages);
    return file;
}

class WindowDevice final : public Device {
  public:
    DeviceIdentity identity() const override {
        return {.virtio_id = kVirtioIdEntropy, .name = "window"};
    }

    DeviceAbilities abilities() const override { return {.shared_memory = kRegions}; }

    FeatureSet offered_features() const override { return {}; }

    void on_negotiated(FeatureSet /*agreed*/) override {}

    void on_frontend(std::shared_ptr<Frontend> frontend) override {
        frontend_ = std::move(frontend);
    }

    Result<void> start_queue(QueueIndex /*index*/, Virtqueue& queue, Worker& /*worker*/) override {
        queue_ = &queue;
        mapped_ = false;
        return {};
    }

    void stop_queue(QueueIndex /*index*/, std::move_only_function<void()> drained) override {
        drained();
    }

    void reset() override {}

    QueueProgress process_queue(QueueIndex /*index*/) override {
        if (!std::exchange(mapped_, true)) {
            map_all();
        }
        while (std::optional<DescriptorChain> chain = queue_->pop()) {
            ChainWriter writer = chain->take_writer();
            const std::array<std::byte, 16> bytes{};
            uint32_t written = 0;
            if (writer.remaining() >= bytes.size()) {
                writer.write(bytes);
                written = bytes.size();
            }
            chain->complete(written);
        }
        return QueueProgress::kDrained;
    }

  private:
    /// One behind the other: the guest waits for the last.
    void map_all() {
        growing_ = make_file(1);
        map(window::kGrowing, 2, false, growing_.get(), [this] {
            fill(growing_.get(), 2);
            shortened_ = make_file(2);
            map(window::kShortened, 2, false, shortened_.get(), [this] {
                fill(shortened_.get(), 1);
                const UniqueFd two_pages = make_file(2);
                map(window::kWritable, 2, true, two_pages.get(), [] {});
                const UniqueFd one_page = make_file(1);
                map(window::kReadOnly, 1, false, one_page.get(), [] {});
            });
        });
    }

    void map(uint64_t offset,
             uint64_t pages,
             bool writable,
             int file,
             std::move_only_function<void()> then) {
        const bool asked = frontend_->map_shared_memory(
            {.region = 0, .offset = offset, .bytes = pages * window::kPage},
            {.fd = UniqueFd(::dup(file)), .fd_offset = 0, .writable = writable},
            [then = std::move(then)](Result<void, FrontendError> done) mutable {
                log(LogLevel::kInfo, "window: {}", done ? "mapped" : "not mapped");
                then();
            });
        if (!asked) {
            log(LogLevel::kError, "window: nobody to ask");
        }
    }

    std::shared_ptr<Frontend> frontend_;
    Virtqueue* queue_ = nullptr;
    bool mapped_ = false;
    UniqueFd growing_;
    UniqueFd shortened_;
};

Result<std::unique_ptr<Device>> create_device(const OptionValues& /*values*/) {
    return std::make_unique<WindowDevice>();
}

constexpr DeviceProgram kProgram{.name = "window-daemon",
                                 .type = "rng",
                                 .summary = "A vhost-user back end with shared memory, for tests",
                                 .options = {},
                                 .create_device = create_device};

}  // namespace
}  // namespace outrigger

int main(int argc, char** argv) {
    return outrigger::run_device_program(argc, argv, outrigger::kProgram);
}
