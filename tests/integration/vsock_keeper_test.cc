// SPDX-License-Identifier: Apache-2.0
// A keeper that does not read holds up nobody.
#include <mutex>
#include <set>
#include <string>

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

/// Has room or has not, as it is told. Whoever waits for it is counted.
class SlowKeeper final : public SocketKeeper {
  public:
    bool keep_open(std::string_view name, int /*fd*/) override {
        const std::lock_guard lock(mutex_);
        ++waits_;
        kept_.insert(std::string(name));
        return true;
    }

    void forget(std::string_view name) override {
        const std::lock_guard lock(mutex_);
        ++waits_;
        kept_.erase(std::string(name));
    }

    Kept try_keep_open(std::string_view name, int /*fd*/) override {
        const std::lock_guard lock(mutex_);
        if (!reads_) {
            ++refusals_;
            return Kept::kNotNow;
        }
        kept_.insert(std::string(name));
        return Kept::kYes;
    }

    bool try_forget(std::string_view name) override {
        const std::lock_guard lock(mutex_);
        if (!reads_) {
            ++refusals_;
            return false;
        }
        kept_.erase(std::string(name));
        return true;
    }

    void set_reads(bool reads) {
        const std::lock_guard lock(mutex_);
        reads_ = reads;
    }

    [[nodiscard]] size_t kept() const {
        const std::lock_guard lock(mutex_);
        return kept_.size();
    }

    [[nodiscard]] size_t waits() const {
        const std::lock_guard lock(mutex_);
        return waits_;
    }

    [[nodiscard]] size_t refusals() const {
        const std::lock_guard lock(mutex_);
        return refusals_;
    }

  private:
    mutable std::mutex mutex_;  // what follows
    bool reads_ = true;
    size_t waits_ = 0;
    size_t refusals_ = 0;
    std::set<std::string> kept_;
};

class VsockKeeperTest : public VsockTest {
  protected:
    ~VsockKeeperTest() override {
        guest_.reset();
        host_.reset();
        device_.reset();
    }

    void serve_kept() {
        Keeping keeping;
        keeping.keeper = &keeper_;
        serve_device(std::move(keeping));
        start_guest();
    }

    SlowKeeper keeper_;
};

TEST_P(VsockKeeperTest, ConnectionsAreServedMeanwhileAndKeptWhenItReads) {
    serve_kept();
    keeper_.set_reads(false);
    const HostSocket dialled = open_from_guest();
    expect_echo(dialled);
    const FromHost accepted = open_from_host();
    ASSERT_TRUE(guest().send_data(kGuestPort, accepted.host_port, "ping"));
    EXPECT_EQ(accepted.socket.receive(4), "ping");
    EXPECT_EQ(keeper_.kept(), 0U);
    EXPECT_GE(keeper_.refusals(), 2U);
    keeper_.set_reads(true);
    EXPECT_TRUE(eventually([&] { return keeper_.kept() == 2; }));
    EXPECT_EQ(keeper_.waits(), 0U);
}

TEST_P(VsockKeeperTest, ConnectionsThatEndMeanwhileAreForgottenWhenItReads) {
    serve_kept();
    HostSocket early = open_from_guest();
    EXPECT_EQ(keeper_.kept(), 1U);
    keeper_.set_reads(false);
    const HostSocket late = open_from_guest(VIRTIO_VSOCK_TYPE_STREAM, 5, 6);
    for (const uint32_t port : {kGuestPort, 5U}) {
        ASSERT_TRUE(
            guest().send_op(VIRTIO_VSOCK_OP_RST, port, port == kGuestPort ? kHostPort : 6U));
    }
    EXPECT_TRUE(early.ends());
    EXPECT_TRUE(late.ends());
    EXPECT_EQ(keeper_.kept(), 1U);
    keeper_.set_reads(true);
    EXPECT_TRUE(eventually([&] { return keeper_.kept() == 0; }));
    // Of the other it never heard.
    testing::give_others_a_moment();
    EXPECT_EQ(keeper_.kept(), 0U);
    EXPECT_EQ(keeper_.waits(), 0U);
}

TEST_P(VsockKeeperTest, IsWaitedForWhenTheGuestStops) {
    serve_kept();
    keeper_.set_reads(false);
    const HostSocket host = open_from_guest();
    for (size_t i = 0; i < 3; ++i) {
        ASSERT_TRUE(guest().queue(i).stop(guest().frontend()));
    }
    EXPECT_TRUE(eventually([&] { return keeper_.kept() == 1; }));
    EXPECT_EQ(keeper_.waits(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Rings, VsockKeeperTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

}  // namespace
}  // namespace outrigger::vsock
