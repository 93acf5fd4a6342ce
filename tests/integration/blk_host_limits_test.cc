// SPDX-License-Identifier: Apache-2.0
// outrigger-blk as a process on a host that runs out: of room, and of what a file may have. The
// guest gets errors, the daemon lives, and what fits is served.
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/unique_fd.h"

#include "tests/support/child_process.h"
#include "tests/support/wait.h"
#include "tools/driver/bring_up.h"

namespace outrigger::testing {
namespace {

namespace fs = std::filesystem;
using driver::Segment;

constexpr uint32_t kDataBytes = 65536;

/// A guest with one request at a time.
class Guest final {
  public:
    explicit Guest(const fs::path& socket)
        : frontend_(driver::Frontend::connect(socket, driver::after(kPatience)).value()) {
        running_ = driver::bring_up(frontend_, memory_, {}).value();
        header_ = memory_.allocate(16, 16).value();
        data_ = memory_.allocate(kDataBytes, 4096).value();
        status_ = memory_.allocate(1, 1).value();
    }

    /// The status of a request on kDataBytes; -1 when it does not end.
    int request(uint32_t type, uint64_t offset) {
        std::array<std::byte, 16> header{};
        const uint64_t sector = offset / 512;
        std::memcpy(header.data(), &type, sizeof type);
        std::memcpy(header.data() + 8, &sector, sizeof sector);
        memory_.write(header_, header);
        std::vector<Segment> segments{{header_, 16, false}};
        if (type == VIRTIO_BLK_T_DISCARD) {
            write_range(offset);
            segments.push_back({data_, 16, false});
        } else if (type != VIRTIO_BLK_T_FLUSH) {
            segments.push_back({data_, kDataBytes, type == VIRTIO_BLK_T_IN});
        }
        segments.push_back({status_, 1, true});
        if (!running_.queues[0].transact(segments, driver::after(kPatience))) {
            return -1;
        }
        std::byte status{};
        memory_.read(status_, std::span(&status, 1));
        return std::to_integer<int>(status);
    }

    [[nodiscard]] bool has(unsigned feature) const {
        return running_.agreement.features.has(feature);
    }

  private:
    void write_range(uint64_t offset) const {
        std::array<std::byte, 16> range{};
        const uint64_t sector = offset / 512;
        const uint32_t count = kDataBytes / 512;
        std::memcpy(range.data(), &sector, sizeof sector);
        std::memcpy(range.data() + 8, &count, sizeof count);
        memory_.write(data_, range);
    }

    driver::Frontend frontend_;
    driver::GuestMemory memory_ = driver::GuestMemory::create(4 << 20).value();
    driver::RunningDevice running_;
    GuestAddr header_{};
    GuestAddr data_{};
    GuestAddr status_{};
};

class BlkHostLimits : public ::testing::TestWithParam<const char*> {
  protected:
    void SetUp() override {
        const char* program = std::getenv("OUTRIGGER_BLK_PROGRAM");
        ASSERT_NE(program, nullptr) << "names the program under test";
        program_ = program;
        std::string name = ::testing::TempDir() + "blk-limits-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }

    void TearDown() override {
        guest_.reset();
        daemon_.reset();
        if (mounted_) {
            ::umount2((folder_ / "mount").c_str(), MNT_DETACH);
        }
        fs::remove_all(folder_);
    }

    void start(const fs::path& image, off_t size) {
        const UniqueFd fd(::open(image.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        ASSERT_TRUE(fd.valid());
        ASSERT_EQ(::ftruncate(fd.get(), size), 0);
        daemon_ = std::make_unique<ChildProcess>(
            program_,
            ChildProcess::Options{.arguments = {"--socket-path=" + (folder_ / "s").string(),
                                                "--blk-file=" + image.string(),
                                                "--sandbox=log",
                                                GetParam()}});
        guest_ = std::make_unique<Guest>(folder_ / "s");
    }

    void expect_clean_end() {
        guest_.reset();
        daemon_->send_signal(SIGTERM);
        EXPECT_EQ(daemon_->wait(), (Ended{.status = 0}));
    }

    std::string program_;
    fs::path folder_;
    bool mounted_ = false;
    std::unique_ptr<ChildProcess> daemon_;
    std::unique_ptr<Guest> guest_;
};

INSTANTIATE_TEST_SUITE_P(Engines,
                         BlkHostLimits,
                         ::testing::Values("--io-engine=auto", "--io-engine=threads"),
                         [](const auto& engine) {
                             const std::string option = engine.param;
                             return option.substr(option.find('=') + 1);
                         });

TEST_P(BlkHostLimits, FileThatMayNotGrowFailsTheWriteAndNotTheDaemon) {
    start(folder_ / "image", 64 << 20);
    // The signal that comes with it would end a process that does not expect it.
    const rlimit limit{.rlim_cur = (8 << 20) + 1000, .rlim_max = (8 << 20) + 1000};
    ASSERT_EQ(::prlimit(daemon_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_OUT, 8 << 20), VIRTIO_BLK_S_IOERR)
        << "the kernel takes the first 1000 bytes";
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_OUT, 16 << 20), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_IN, 16 << 20), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_OUT, 4096), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_FLUSH, 0), VIRTIO_BLK_S_OK);
    EXPECT_EQ(fs::file_size(folder_ / "image"), 64U << 20);
    expect_clean_end();
}

TEST_P(BlkHostLimits, FullFileSystemFailsTheWriteUntilThereIsRoomAgain) {
    fs::create_directory(folder_ / "mount");
    if (::mount("none", (folder_ / "mount").c_str(), "tmpfs", 0, "size=1m") != 0) {
        GTEST_SKIP() << "no file system can be mounted here: " << std::strerror(errno);
    }
    mounted_ = true;
    start(folder_ / "mount/image", 16 << 20);
    uint64_t offset = 0;
    int status = VIRTIO_BLK_S_OK;
    for (; offset < (16U << 20) && status == VIRTIO_BLK_S_OK; offset += kDataBytes) {
        status = guest_->request(VIRTIO_BLK_T_OUT, offset);
    }
    EXPECT_EQ(status, VIRTIO_BLK_S_IOERR);
    EXPECT_LE(offset, 2U << 20);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_IN, offset), VIRTIO_BLK_S_OK);
    EXPECT_EQ(guest_->request(VIRTIO_BLK_T_OUT, 0), VIRTIO_BLK_S_OK) << "there it has room";
    if (guest_->has(VIRTIO_BLK_F_DISCARD)) {
        EXPECT_EQ(guest_->request(VIRTIO_BLK_T_DISCARD, 0), VIRTIO_BLK_S_OK);
        EXPECT_EQ(guest_->request(VIRTIO_BLK_T_OUT, offset), VIRTIO_BLK_S_OK);
    }
    EXPECT_TRUE(daemon_->wait_complained("No space left on device"));
    expect_clean_end();
}

}  // namespace
}  // namespace outrigger::testing
