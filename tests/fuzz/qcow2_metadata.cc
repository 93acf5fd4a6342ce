// SPDX-License-Identifier: Apache-2.0
/// Fuzz target: a qcow2 image of one or two layers. The script is what stands in the files, what is
/// read of the disk, and the host that makes the calls in any order, in part, or not. Every read
/// ends once; what it gives is what a simpler reader finds.
#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <sys/uio.h>
#include <unistd.h>

#include "vhost-user-backend/base/error.h"
#include "vhost-user-backend/base/log.h"
#include "vhost-user-backend/io/event_loop.h"

#include "devices/blk/qcow2/image_chain.h"
#include "devices/blk/qcow2/qcow2_queue.h"
#include "tests/fuzz/qcow2_file.h"
#include "tests/fuzz/qcow2_script.h"
#include "tests/fuzz/script.h"
#include "tests/fuzz/target.h"

namespace outrigger::fuzz {
namespace {

constexpr size_t kOpsMax = 64;
constexpr uint32_t kRequestsMax = 8;
constexpr size_t kSectorBytes = Qcow2File::kSectorBytes;
/// Fewer than the reader makes again at once; pauses would cost real time.
constexpr size_t kTryAgainMax = 6;
constexpr size_t kDecompressor = ~size_t{0};

struct Call {
    blk::IoOperation* operation;
    size_t layer;  // or kDecompressor
};

class ScriptedEngine final : public blk::IoEngine {
  public:
    ScriptedEngine(std::deque<Call>& calls, size_t layer) : calls_(calls), layer_(layer) {}

    void submit(blk::IoOperation& operation) override { calls_.push_back({&operation, layer_}); }

  private:
    std::deque<Call>& calls_;
    const size_t layer_;
};

struct Read final : public blk::ImageRequest {
    void on_image_done(int os_error) override {
        OUTRIGGER_ASSERT(!result);
        result = os_error;
    }

    std::vector<std::byte> memory;
    std::vector<iovec> segments;
    std::optional<int> result;
    bool host_failed = false;  // while it was under way
};

class Qcow2Script final {
  public:
    Qcow2Script(ScriptReader script, EventLoop& loop)
        : script_(script), options_(script_.u8()), loop_(loop) {}

    void run() {
        open_layer((options_ & Qcow2Options::kZstd) != 0);
        if ((options_ & Qcow2Options::kTwoLayers) != 0) {
            open_layer(false);
        }
        if (layers_.size() != files_.size()) {
            return;
        }
        std::vector<std::unique_ptr<blk::IoEngine>> engines;
        for (size_t i = 0; i < layers_.size(); ++i) {
            engines.push_back(std::make_unique<ScriptedEngine>(calls_, i));
        }
        queue_ = std::make_unique<blk::Qcow2Queue>(
            layers_,
            std::move(engines),
            std::make_unique<ScriptedEngine>(calls_, kDecompressor),
            loop_,
            blk::Qcow2QueueLimits{.requests_max = kRequestsMax, .memory = budget_.take_share()});
        for (size_t i = 0; i < kOpsMax && !script_.at_end(); ++i) {
            step(next_op<Qcow2Op>(script_));
        }
        answer_all();
        OUTRIGGER_ASSERT(reads_.empty());
    }

  private:
    void open_layer(bool zstd) {
        files_.push_back(
            std::make_unique<Qcow2File>(script_, zstd, (options_ & Qcow2Options::kHugeDisk) != 0));
        auto opened = blk::open_image_chain({.path = files_.back()->path(), .lock = false});
        if (opened) {
            OUTRIGGER_ASSERT(opened->size() == 1);
            layers_.push_back(std::move(opened->front()));
        }
    }

    void step(Qcow2Op op) {
        switch (op) {
            case Qcow2Op::kRead:
                return read();
            case Qcow2Op::kAnswer: {
                const size_t which = script_.u8();
                const auto how =
                    script_.pick_enum<Qcow2Answer>(static_cast<size_t>(Qcow2Answer::kCount));
                const uint16_t argument = script_.u16();
                if (!calls_.empty()) {
                    answer(which % calls_.size(), how, argument);
                }
                return;
            }
            case Qcow2Op::kAnswerAll:
                return answer_all();
            case Qcow2Op::kChange:
                changed_ = true;
                return files_.front()->change(script_);
            case Qcow2Op::kShrink:
                changed_ = true;
                return files_.front()->shrink(script_);
            case Qcow2Op::kCount:
                return;
        }
    }

    void read() {
        const uint64_t disk_sectors = layers_.front().size_bytes / kSectorBytes;
        uint64_t sector = script_.u32();
        const uint64_t wanted = 1 + script_.pick(200);
        const size_t segment_bytes = std::max<size_t>(script_.u16(), 100);
        if (disk_sectors == 0) {
            return;
        }
        if (reads_.size() == kRequestsMax) {
            answer_all();
        }
        sector =
            (options_ & Qcow2Options::kHugeDisk) != 0 ? (sector << 20) + sector % 4096 : sector;
        sector %= disk_sectors;
        auto request = std::make_unique<Read>();
        request->offset_bytes = sector * kSectorBytes;
        request->length_bytes = std::min(wanted, disk_sectors - sector) * kSectorBytes;
        request->memory.assign(request->length_bytes, std::byte{0xee});
        for (size_t at = 0; at < request->memory.size(); at += segment_bytes) {
            request->segments.push_back(
                {.iov_base = request->memory.data() + at,
                 .iov_len = std::min(segment_bytes, request->memory.size() - at)});
        }
        request->data = request->segments;
        reads_.push_back(std::move(request));
        queue_->submit(*reads_.back());
        settle();
    }

    /// Makes the call, or not, and reports it.
    void answer(size_t which, Qcow2Answer how, uint16_t argument) {
        const Call call = calls_[which];
        calls_.erase(calls_.begin() + static_cast<ptrdiff_t>(which));
        int32_t result = 0;
        if (call.layer == kDecompressor) {
            result = blk::Qcow2Queue::decompression_call()(-1, *call.operation);
        } else {
            result = answer_read(call, how, argument);
        }
        call.operation->on_complete(result, 0);
        settle();
    }

    int32_t answer_read(const Call& call, Qcow2Answer how, uint16_t argument) {
        const blk::IoOperation& operation = *call.operation;
        OUTRIGGER_ASSERT(operation.opcode == blk::IoOpcode::kRead);
        OUTRIGGER_ASSERT(operation.segment_count > 0);
        size_t bytes = 0;
        for (uint32_t i = 0; i < operation.segment_count; ++i) {
            OUTRIGGER_ASSERT(operation.segments[i].iov_len > 0);
            bytes += operation.segments[i].iov_len;
        }
        // Nothing is asked for that lies behind the file, as it was when it was opened.
        const uint64_t file_bytes = layers_[call.layer].geometry.file_bytes;
        OUTRIGGER_ASSERT(operation.offset_bytes < file_bytes &&
                         bytes <= file_bytes - operation.offset_bytes);
        switch (how) {
            case Qcow2Answer::kShort:
                bytes = 1 + argument % bytes;
                break;
            case Qcow2Answer::kNothing:
                fail_reads();
                return 0;
            case Qcow2Answer::kTryAgain:
                if (try_agains_++ < kTryAgainMax) {
                    return -EAGAIN;
                }
                break;
            case Qcow2Answer::kIoError:
                fail_reads();
                return -EIO;
            case Qcow2Answer::kDone:
            case Qcow2Answer::kCount:
                break;
        }
        int32_t done = 0;
        for (uint32_t i = 0; i < operation.segment_count && bytes > 0; ++i) {
            const size_t length = std::min(operation.segments[i].iov_len, bytes);
            const ssize_t count = ::pread(files_[call.layer]->fd(),
                                          operation.segments[i].iov_base,
                                          length,
                                          static_cast<off_t>(operation.offset_bytes) + done);
            OUTRIGGER_ASSERT(count >= 0);
            done += static_cast<int32_t>(count);
            bytes -= length;
            if (static_cast<size_t>(count) < length) {
                break;
            }
        }
        return done;
    }

    void fail_reads() {
        for (const auto& request : reads_) {
            request->host_failed = true;
        }
    }

    void answer_all() {
        settle();
        constexpr size_t kAnswersMax = 200'000;
        for (size_t i = 0; !calls_.empty(); ++i) {
            OUTRIGGER_ASSERT(i < kAnswersMax);
            answer(0, Qcow2Answer::kDone, 0);
        }
    }

    /// Turns that reads gave up come back; what has ended is looked at.
    void settle() {
        constexpr size_t kTurnsMax = 200'000;
        for (size_t i = 0; loop_.run_once(EventLoop::Clock::time_point::min()); ++i) {
            OUTRIGGER_ASSERT(i < kTurnsMax);
        }
        std::erase_if(reads_, [this](const std::unique_ptr<Read>& request) {
            if (!request->result) {
                return false;
            }
            check(*request);
            return true;
        });
    }

    void check(const Read& request) const {
        if (changed_) {
            return;
        }
        std::vector<std::byte> wanted;
        const bool sound = find(request, wanted);
        if (*request.result == 0) {
            OUTRIGGER_ASSERT(sound && request.memory == wanted);
        } else {
            OUTRIGGER_ASSERT(!sound || request.host_failed);
        }
    }

    /// False: something on the way is damaged.
    [[nodiscard]] bool find(const Read& request, std::vector<std::byte>& wanted) const {
        for (uint64_t at = 0; at < request.length_bytes; at += kSectorBytes) {
            std::array<std::byte, kSectorBytes> sector{};
            const uint64_t position = request.offset_bytes + at;
            for (size_t i = 0; i < layers_.size() && position < layers_[i].size_bytes; ++i) {
                std::array<std::byte, kSectorBytes> found{};
                const Qcow2File::Sector what =
                    files_[i]->read_sector(position / kSectorBytes, found);
                if (what == Qcow2File::Sector::kDamaged) {
                    return false;
                }
                if (what == Qcow2File::Sector::kFilled) {
                    // The last sector of a lower disk need not be whole.
                    const uint64_t inside =
                        std::min<uint64_t>(kSectorBytes, layers_[i].size_bytes - position);
                    std::copy_n(found.begin(), inside, sector.begin());
                    break;
                }
            }
            wanted.insert(wanted.end(), sector.begin(), sector.end());
        }
        return true;
    }

    ScriptReader script_;
    const uint8_t options_;
    std::vector<std::unique_ptr<Qcow2File>> files_;
    std::vector<blk::ImageLayer> layers_;
    std::deque<Call> calls_;
    EventLoop& loop_;
    std::vector<std::unique_ptr<Read>> reads_;
    blk::Qcow2Budget budget_;
    std::unique_ptr<blk::Qcow2Queue> queue_;
    size_t try_agains_ = 0;
    bool changed_ = false;
};

}  // namespace
}  // namespace outrigger::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace outrigger;
    set_log_level(LogLevel::kOff);
    static const std::unique_ptr<EventLoop> loop = create_event_loop(LoopKind::kAsio).value();
    fuzz::Qcow2Script(fuzz::ScriptReader(std::span(data, size)), *loop).run();
    return 0;
}
