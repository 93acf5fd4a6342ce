// SPDX-License-Identifier: Apache-2.0
// What the next process makes of what one left behind: the ledger and the sockets of connections.
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vhost-user-backend/base/shared_memory.h"

#include "tests/integration/vsock_traps.h"

namespace outrigger::vsock {
namespace {

/// Has a descriptor of its own for each socket. Used from the worker; looked at while no queue
/// runs.
class HoldingKeeper final : public SocketKeeper {
  public:
    bool keep_open(std::string_view name, int fd) override {
        kept[std::string(name)] = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
        return true;
    }

    void forget(std::string_view name) override { kept.erase(std::string(name)); }

    Kept try_keep_open(std::string_view name, int fd) override {
        return keep_open(name, fd) ? Kept::kYes : Kept::kNever;
    }

    bool try_forget(std::string_view name) override {
        forget(name);
        return true;
    }

    std::map<std::string, UniqueFd> kept;
};

class VsockNextProcessTest : public VsockTest {
  protected:
    VsockNextProcessTest() {
        options_.connections_max = 4;
        options_.window_bytes_max = options_.window_bytes;
        memory_ = create_memory();
    }

    ~VsockNextProcessTest() override {
        next_guest_.reset();
        next_host_.reset();
        next_device_.reset();
        guest_.reset();
        host_.reset();
        device_.reset();
    }

    [[nodiscard]] Ledger::Shape shape() const { return VsockEngine::ledger_shape(options_); }

    [[nodiscard]] UniqueFd create_memory() const {
        return create_shared_memory("ledger", Ledger::bytes_for(shape())).value();
    }

    void serve_kept(VsockGuestOptions options = {}) {
        Keeping keeping;
        keeping.ledger = Ledger::begin_anew(memory_.get(), shape()).value();
        keeping.keeper = &keeper_;
        serve_device(std::move(keeping));
        start_guest(options);
    }

    void stop_rings() {
        for (uint16_t i = 0; i < 3; ++i) {
            ASSERT_TRUE(guest().queue(i).stop(guest().frontend()));
        }
    }

    /// Another process takes up a copy of all that is there, which `forge` may change; the first
    /// one, whose rings stand still, is not heard of again.
    void take_up(const std::function<void(Ledger&)>& forge = {}) {
        const size_t bytes = Ledger::bytes_for(shape());
        copy_ = create_memory();
        std::vector<std::byte> image(bytes);
        ASSERT_EQ(::pread(memory_.get(), image.data(), bytes, 0), static_cast<ssize_t>(bytes));
        ASSERT_EQ(::pwrite(copy_.get(), image.data(), bytes, 0), static_cast<ssize_t>(bytes));
        auto ledger = Ledger::open(copy_.get(), shape()).value();
        ASSERT_TRUE(ledger);
        if (forge) {
            forge(*ledger);
        }
        Keeping keeping;
        keeping.keeper = &next_keeper_;
        for (uint32_t slot = 0; slot < options_.connections_max; ++slot) {
            const auto found =
                keeper_.kept.find(kept_name(make_id(slot, ledger->record(slot).generation)));
            keeping.found.push_back(found == keeper_.kept.end() ? UniqueFd()
                                                                : std::move(found->second));
        }
        keeping.ledger = std::move(*ledger);
        VsockOptions options = options_;
        options.uds_path = folder_ / "next";
        next_device_ = make_device(options, std::move(keeping));
    }

    void start_next_guest(VsockGuestOptions options = {}) {
        options.packed = GetParam();
        next_host_ =
            std::make_unique<testing::SessionHost>(*next_device_, testing::SessionHostOptions{});
        next_guest_ = std::make_unique<VsockGuest>(next_host_->connect(), options);
        ASSERT_TRUE(next_guest_->is_up());
    }

    /// As they do while a process is killed, at whose place the next one's begin.
    static void say_that_rings_ran(Ledger& ledger) {
        ledger.numbers().flags |= kNumberRuns | kNumberRuns << 1 | kNumberRuns << 2;
        ledger.commit();
    }

    UniqueFd memory_;
    UniqueFd copy_;
    HoldingKeeper keeper_;
    HoldingKeeper next_keeper_;
    std::unique_ptr<VsockDevice> next_device_;
    std::unique_ptr<testing::SessionHost> next_host_;
    std::unique_ptr<VsockGuest> next_guest_;
};

INSTANTIATE_TEST_SUITE_P(Rings, VsockNextProcessTest, ::testing::Bool(), [](const auto& param) {
    return param.param ? "Packed" : "Split";
});

/// A front end may say no more of a reboot than that rings stop, and start at their beginning.
TEST_P(VsockNextProcessTest, Trap26RebootDuringWhichTheProcessIsReplacedEndsConnections) {
    serve_kept();
    const HostSocket host = open_from_guest();
    stop_rings();
    take_up();
    EXPECT_FALSE(host.has_news());
    start_next_guest();
    EXPECT_TRUE(host.ends());
}

/// The socket has no SO_OOBINLINE, as a process of an older version left it.
TEST_P(VsockNextProcessTest, Trap14ByteOutOfBandThatWasKeptCostsNothing) {
    serve_kept();
    const HostSocket host = open_from_guest();
    stop_rings();
    const int off = 0;
    ASSERT_EQ(keeper_.kept.size(), 1U);
    ASSERT_EQ(::setsockopt(
                  keeper_.kept.begin()->second.get(), SOL_SOCKET, SO_OOBINLINE, &off, sizeof off),
              0);
    if (::send(host.fd(), "x", 1, MSG_OOB) != 1) {
        GTEST_SKIP() << "this kernel's Unix sockets send nothing out of band";
    }
    take_up(say_that_rings_ran);
    start_next_guest();
    testing::give_others_a_moment();
    const Counter& packets = next_device_->counters().packets_to_guest;
    const uint64_t before = packets.value();
    testing::give_others_a_moment();
    EXPECT_LE(packets.value(), before + 1);
    ::shutdown(host.fd(), SHUT_WR);
    EXPECT_EQ(next_guest_->receive_op(), VIRTIO_VSOCK_OP_SHUTDOWN);
}

/// Only what is open, and of messages, has one that is over.
TEST_P(VsockNextProcessTest, MessageThatIsOverWhereThereIsNoneEndsTheConnectionAlone) {
    serve_kept();
    const HostSocket silent = HostSocket::connect_to(base(), SOCK_STREAM);
    ASSERT_TRUE(eventually([&] { return counters().connections.value() == 1; }));
    const HostSocket host = open_from_guest();
    stop_rings();
    take_up([](Ledger& ledger) {
        say_that_rings_ran(ledger);
        for (const uint32_t slot : {0U, 1U}) {
            ConnectionRecord record = ledger.record(slot);
            record.flags |= kRecordMessageOver;
            ledger.commit(slot, record);
        }
    });
    start_next_guest();
    ASSERT_TRUE(next_guest_->send_data(kGuestPort, kHostPort, "ping"));
    EXPECT_EQ(host.receive(4), "ping");
    silent.send("CONNECT 5\n");
    EXPECT_EQ(next_guest_->receive_op(), VIRTIO_VSOCK_OP_REQUEST);
}

}  // namespace
}  // namespace outrigger::vsock
