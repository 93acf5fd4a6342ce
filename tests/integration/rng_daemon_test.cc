// SPDX-License-Identifier: Apache-2.0
// What an operator is told of outrigger-rng, and the limit that he may change.
#include <array>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/integration/keeper_test.h"
#include "tests/support/metrics_samples.h"

namespace outrigger::testing {
namespace {

/// The longest period that there is: nothing comes in while a test runs.
constexpr const char* kOneByteADay = "--max-bytes=1";
constexpr const char* kDay = "--period=86400000";

class RngDaemonTest : public KeeperTest {
  protected:
    void serve(std::vector<std::string> more = {}) {
        more.insert(more.end(),
                    {kManyRestarts,
                     "--name=entropy",
                     "--control-socket=" + (folder_ / "control").string(),
                     "--metrics=unix:" + metrics_path()});
        start(std::move(more));
        guest_.emplace(connect());
    }

    [[nodiscard]] std::string metrics_path() const { return (folder_ / "metrics").string(); }

    /// What outriggerctl prints, if it ends so.
    std::string ask(std::vector<std::string> arguments, int status = 0) {
        const char* const ctl = std::getenv("OUTRIGGER_CTL_PROGRAM");
        EXPECT_NE(ctl, nullptr) << "names outriggerctl";
        arguments.insert(arguments.begin(), "--socket=" + (folder_ / "control").string());
        ChildProcess asked(ctl != nullptr ? ctl : "", {.arguments = std::move(arguments)});
        EXPECT_EQ(asked.wait(), Ended{.status = status}) << asked.complained();
        return asked.printed() + asked.complained();
    }

    void expect_shown(const std::string& text) {
        const std::string shown = ask({"show"});
        EXPECT_NE(shown.find(text), std::string::npos) << shown;
    }

    /// Of outrigger_rng_..., with these labels behind that of the device.
    [[nodiscard]] std::string metric(const std::string& name, const std::string& labels = "") {
        const auto values = read_metrics(metrics_path());
        const auto found =
            values.find("outrigger_rng_" + name + "{device=\"entropy\"" + labels + "}");
        return found != values.end() ? found->second : "";
    }

    /// Workers count behind the guest's back.
    [[nodiscard]] bool comes_to(const std::string& name,
                                const std::string& labels,
                                const std::string& value) {
        return eventually([&] { return metric(name, labels) == value; });
    }

    void submit() {
        ASSERT_TRUE(queue().try_add(std::span(&guest_->buffer, 1), 7));
        queue().publish_and_kick();
    }

    /// The used length of what was submitted; nothing when it does not come back.
    std::optional<uint32_t> wait() {
        if (queue().wait_used(driver::after(kPatience)) != driver::WaitResult::kUsed) {
            return std::nullopt;
        }
        const auto used = queue().poll_used();
        return used ? std::optional(used->length) : std::nullopt;
    }

    [[nodiscard]] driver::DriverQueue& queue() { return guest_->running.queues[0]; }

    std::optional<Guest> guest_;
};

TEST_F(RngDaemonTest, TellsWhereTheBytesCameFrom) {
    const std::string file = folder_ / "bytes";
    std::ofstream(file) << std::string(100, 'x');
    serve({"--source=" + file});
    expect_shown("source             " + file + "\n");
    expect_shown("limits             none\n");
    EXPECT_EQ(guest_->draw(), 4096U);
    EXPECT_TRUE(comes_to("bytes_total", ",from=\"kernel\"", "3996"));
    EXPECT_EQ(metric("bytes_total", ",from=\"source\""), "100");
    EXPECT_EQ(metric("source_failures_total"), "1") << "the file has ended";
    EXPECT_EQ(metric("limit_waits_total"), "0");
    EXPECT_EQ(metric("empty_requests_total"), "0");
    expect_shown("source             getrandom\n");
    expect_shown("bytes given        100 of --source, 3996 of the kernel\n");
    expect_shown("source failures    1\n");
    const std::string json = ask({"show", "--json"});
    EXPECT_NE(json.find("\"bytes_from_source\": \"100\""), std::string::npos) << json;
}

/// No message can have it.
TEST_F(RngDaemonTest, TellsOfASourceWhosePathIsNoText) {
    const std::string file = folder_ / "bytes\xff";
    std::ofstream(file) << std::string(100, 'x');
    serve({"--source=" + file});
    expect_shown("source             " + (folder_ / "bytes?").string() + "\n");
}

TEST_F(RngDaemonTest, TellsOfRequestsWithoutRoom) {
    serve();
    driver::Segment readable = guest_->buffer;
    readable.device_writable = false;
    ASSERT_TRUE(queue().transact(std::span(&readable, 1), driver::after(kPatience)));
    EXPECT_TRUE(comes_to("empty_requests_total", "", "1"));
    EXPECT_EQ(guest_->draw(), 4096U);
    EXPECT_TRUE(comes_to("bytes_total", ",from=\"kernel\"", "4096"));
}

TEST_F(RngDaemonTest, AnOperatorChangesTheLimitThatARequestWaitsFor) {
    serve({kOneByteADay, kDay});
    EXPECT_EQ(guest_->draw(), 1U);
    submit();
    ASSERT_TRUE(comes_to("limit_waits_total", "", "1"));
    EXPECT_EQ(metric("limit_wait_seconds_total"), "0.000000000") << "it goes on";
    expect_shown("limits             max-bytes=1 period=86400000\n");
    EXPECT_EQ(ask({"limit", "--max-bytes=0"}), "");
    expect_shown("limits             none\n");
    EXPECT_EQ(wait(), 4096U);
    EXPECT_EQ(metric("limit_waits_total"), "1");
    EXPECT_NE(metric("limit_wait_seconds_total"), "0.000000000");
    EXPECT_EQ(ask({"limit", "--max-bytes=1K", "--period=86400000"}), "");
    EXPECT_EQ(guest_->draw(), 1024U);
}

TEST_F(RngDaemonTest, AnotherProcessHoldsToTheLimitThatWasSet) {
    serve({kOneByteADay, kDay});
    EXPECT_EQ(guest_->draw(), 1U);
    EXPECT_EQ(ask({"limit", "--max-bytes=100"}), "");
    for (int round = 0; round < 2; ++round) {
        kill_worker();
        EXPECT_EQ(guest_->draw(), 100U) << "a new process has all of the period";
        expect_shown("limits             max-bytes=100 period=86400000\n");
    }
}

TEST_F(RngDaemonTest, WrongWishesChangeNothing) {
    serve({kOneByteADay, kDay});
    EXPECT_NE(ask({"limit", "--bytes=1"}, 1).find("no such command"), std::string::npos);
    EXPECT_NE(ask({"limit", "--send-bytes=1"}, 1).find("no such command"), std::string::npos);
    EXPECT_NE(ask({"limit", "--period=0"}, 2).find("--period"), std::string::npos);
    expect_shown("limits             max-bytes=1 period=86400000\n");
    EXPECT_EQ(guest_->draw(), 1U);
    // No ring runs, and the next one has it.
    ASSERT_TRUE(queue().stop(guest_->frontend));
    EXPECT_EQ(ask({"limit", "--max-bytes=0"}), "");
    guest_.emplace(connect());
    EXPECT_EQ(guest_->draw(), 4096U);
}

}  // namespace
}  // namespace outrigger::testing
