// SPDX-License-Identifier: Apache-2.0
// A device for tests whose requests must not be carried out twice: each puts eight bytes at the end
// of a file and answers where that was. It takes its time before and behind that, so that whoever
// kills it mostly finds it in between.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/daemon/device_program.h"
#include "vhost-user-backend/device.h"

namespace outrigger::testing {
namespace {

constexpr OptionSpec kOptions[] = {
    {.name = "ledger", .value_name = "PATH", .help = "Put the bytes of requests in this file"},
    {.name = "replays",
     .value_name = "PATH",
     .help = "Note in this file how far each replayed request had come: n, u, i or o"},
    {.name = "notes",
     .kind = OptionKind::kNumber,
     .value_name = "0|1",
     .help = "Note outcomes",
     .default_value = "1",
     .number_max = 1},
};

/// A program of this name is another version, which has more rings: no session of this one can go
/// on with it.
constexpr std::string_view kOtherVersion = "/ledger-2";
bool is_other_version = false;

constexpr int kBatchMax = 32;
constexpr auto kPause = std::chrono::microseconds(100);

class LedgerDevice final : public Device {
  public:
    LedgerDevice(UniqueFd ledger, UniqueFd replays, bool notes)
        : ledger_(std::move(ledger)), replays_(std::move(replays)), notes_(notes) {}

    [[nodiscard]] DeviceIdentity identity() const override {
        return {.virtio_id = 4,
                .name = "ledger",
                .queue_count = is_other_version ? uint16_t{2} : uint16_t{1},
                .outcome_bytes = notes_ ? static_cast<uint16_t>(sizeof(uint64_t)) : uint16_t{0}};
    }

    [[nodiscard]] FeatureSet offered_features() const override { return {}; }

    void on_negotiated(FeatureSet /*agreed*/) override {}

    [[nodiscard]] Result<void> start_queue(QueueIndex /*index*/,
                                           Virtqueue& queue,
                                           Worker& /*worker*/) override {
        queue_ = &queue;
        return {};
    }

    [[nodiscard]] QueueProgress process_queue(QueueIndex /*index*/) override {
        for (int i = 0; i < kBatchMax; ++i) {
            auto chain = queue_->pop();
            if (!chain) {
                return QueueProgress::kDrained;
            }
            serve(*chain);
        }
        return QueueProgress::kMore;
    }

    void stop_queue(QueueIndex /*index*/, std::move_only_function<void()> drained) override {
        drained();
    }

    void reset() override {}

  private:
    [[nodiscard]] uint64_t end() const {
        struct stat status {};

        OUTRIGGER_ASSERT(::fstat(ledger_.get(), &status) == 0);
        return static_cast<uint64_t>(status.st_size);
    }

    void serve(DescriptorChain& chain) {
        uint64_t token = 0;
        ChainReader reader = chain.take_reader();
        (void)reader.read(std::as_writable_bytes(std::span(&token, 1)));
        const uint64_t place = place_of(chain, token);
        ChainWriter writer = chain.take_writer();
        (void)writer.write(std::as_bytes(std::span(&place, 1)));
        chain.complete(sizeof place);
    }

    uint64_t place_of(DescriptorChain& chain, uint64_t token) {
        const EarlierRun earlier = chain.earlier_run();
        if (chain.is_replayed()) {
            const char mark = "nuio"[static_cast<size_t>(earlier.progress)];
            OUTRIGGER_ASSERT(::write(replays_.get(), &mark, 1) == 1);
        }
        uint64_t place = 0;
        switch (earlier.progress) {
            case EarlierProgress::kOutcome:
                std::memcpy(&place, earlier.bytes.data(), sizeof place);
                return place;
            case EarlierProgress::kIntent: {
                uint64_t there = 0;
                std::memcpy(&place, earlier.bytes.data(), sizeof place);
                if (::pread(ledger_.get(), &there, sizeof there, static_cast<off_t>(place)) ==
                        sizeof there &&
                    there == token) {
                    return place;
                }
                break;
            }
            case EarlierProgress::kNothing:
            case EarlierProgress::kUnknown:
                break;
        }
        place = end();
        chain.note_intent(std::as_bytes(std::span(&place, 1)));
        std::this_thread::sleep_for(kPause);
        OUTRIGGER_ASSERT(::pwrite(ledger_.get(), &token, sizeof token, static_cast<off_t>(place)) ==
                         sizeof token);
        std::this_thread::sleep_for(kPause);
        chain.note_outcome(std::as_bytes(std::span(&place, 1)), sizeof place);
        return place;
    }

    const UniqueFd ledger_;
    const UniqueFd replays_;
    const bool notes_;
    Virtqueue* queue_ = nullptr;
};

Result<UniqueFd> open_file(const OptionValues& values, const char* option, int flags) {
    const std::string path(values.text(option).value_or(""));
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600));
    if (!fd.valid()) {
        return failure(error_from_errno("cannot open " + path));
    }
    return fd;
}

Result<std::unique_ptr<Device>> create_device(const OptionValues& values) {
    auto ledger = OUTRIGGER_TRY(open_file(values, "ledger", 0));
    auto replays = OUTRIGGER_TRY(open_file(values, "replays", O_APPEND));
    return std::make_unique<LedgerDevice>(
        std::move(ledger), std::move(replays), values.number("notes") != 0);
}

constexpr SystemCallRule kSystemCalls[] = {
    {.name = "clock_nanosleep"},
    {.name = "fstat"},
    {.name = "newfstatat"},
    {.name = "pread64"},
    {.name = "pwrite64"},
};

constexpr DeviceProgram kProgram{
    .name = "outrigger-ledger",
    .type = "ledger",
    .summary = "A device for tests whose requests must not be carried out twice",
    .options = kOptions,
    .create_device = create_device,
    .sandbox = {.system_calls = kSystemCalls},
};

}  // namespace
}  // namespace outrigger::testing

int main(int argc, char** argv) {
    std::array<char, 4096> path{};
    const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
    const std::string_view program(path.data(), static_cast<size_t>(std::max<ssize_t>(length, 0)));
    outrigger::testing::is_other_version = program.ends_with(outrigger::testing::kOtherVersion);
    return outrigger::run_device_program(argc, argv, outrigger::testing::kProgram);
}
