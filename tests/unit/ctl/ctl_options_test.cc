// SPDX-License-Identifier: Apache-2.0
#include "tools/outriggerctl/ctl_options.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tools/outriggerctl/ctl_report.h"

namespace outrigger::ctl {
namespace {

Result<CtlPlan> parse(std::vector<const char*> arguments) {
    return parse_ctl_arguments(arguments);
}

/// The plan of a command line that is right.
CtlPlan plan(std::vector<const char*> arguments) {
    arguments.push_back("--socket=s");
    auto parsed = parse(std::move(arguments));
    EXPECT_TRUE(parsed.has_value()) << parsed.error().message;
    return parsed.value_or(CtlPlan());
}

std::string complaint(std::vector<const char*> arguments) {
    const auto parsed = parse(std::move(arguments));
    return parsed ? "" : parsed.error().message;
}

TEST(CtlOptions, EveryCommandMakesItsRequest) {
    EXPECT_TRUE(plan({"list"}).request.has_describe());
    EXPECT_TRUE(plan({"list"}).list);
    EXPECT_FALSE(plan({"show"}).list);
    EXPECT_EQ(plan({"resize", "2G"}).request.resize().size_bytes(), uint64_t{2} << 30);
    EXPECT_FALSE(plan({"resize"}).request.resize().has_size_bytes());
    EXPECT_TRUE(plan({"resize", "1", "--force"}).request.resize().force());
    EXPECT_TRUE(plan({"read-only", "on"}).request.set_read_only().read_only());
    EXPECT_FALSE(plan({"read-only", "off"}).request.set_read_only().read_only());
    EXPECT_EQ(plan({"cache", "writeback"}).request.set_cache().cache(), control::v1::WRITE_BACK);
    EXPECT_TRUE(plan({"cache", "writeback", "--force"}).request.set_cache().force());
    EXPECT_EQ(plan({"on-error", "enospc"}).request.set_error_policy().policy(),
              control::v1::STOP_ON_FULL);
    EXPECT_TRUE(plan({"pause"}).request.has_pause());
    EXPECT_TRUE(plan({"resume"}).request.has_resume());
    EXPECT_EQ(plan({"log-level", "debug"}).request.set_log_level().level(), "debug");
    EXPECT_EQ(plan({"plug", "hvc0"}).request.set_port_plugged().port(), "hvc0");
    EXPECT_TRUE(plan({"plug", "hvc0"}).request.set_port_plugged().plugged());
    EXPECT_FALSE(plan({"unplug", "hvc0"}).request.set_port_plugged().plugged());
    const CtlPlan swap = plan({"swap", "b.img", "--read-only", "--force"});
    EXPECT_EQ(swap.image_path, "b.img");
    EXPECT_TRUE(swap.image_read_only);
    EXPECT_EQ(swap.request.swap_image().label(), "b.img");
    EXPECT_TRUE(swap.request.swap_image().force());
}

// By commands of its own, which daemons refuse that do not know of it.
TEST(CtlOptions, CaptureMayBeOfTheWayToTheHost) {
    const CtlPlan capture = plan({"capture", "f", "--uplink", "--frame-bytes=100"});
    EXPECT_EQ(capture.capture_path, "f");
    EXPECT_FALSE(capture.request.has_start_capture());
    EXPECT_EQ(capture.request.start_uplink_capture().frame_bytes_max(), 100U);
    const CtlPlan stop = plan({"capture-stop", "--uplink"});
    EXPECT_FALSE(stop.request.has_stop_capture());
    EXPECT_TRUE(stop.request.has_stop_uplink_capture());
    EXPECT_NE(complaint({"show", "--uplink", "--socket=s"}), "");
}

TEST(CtlOptions, CaptureIsStartedAndStopped) {
    const CtlPlan capture = plan({"capture", "f", "--frame-bytes=100", "--file-bytes=1M"});
    EXPECT_EQ(capture.capture_path, "f");
    EXPECT_EQ(capture.request.start_capture().frame_bytes_max(), 100U);
    EXPECT_EQ(capture.request.start_capture().file_bytes_max(), 1U << 20);
    EXPECT_EQ(capture.request.start_capture().filter_size(), 0);
    EXPECT_EQ(plan({"capture", "-"}).capture_path, "-");
    EXPECT_TRUE(plan({"capture-stop"}).request.has_stop_capture());
    EXPECT_EQ(complaint({"capture", "--socket=s"}), "capture takes FILE");
    EXPECT_NE(complaint({"capture-stop", "--frame-bytes=100", "--socket=s"}), "");
    EXPECT_NE(complaint({"capture", "f", "--frame-bytes=13", "--socket=s"}), "");
}

TEST(CtlOptions, FillIsStartedStoppedOrGivenARate) {
    EXPECT_TRUE(plan({"fill", "start"}).request.fill().run());
    EXPECT_FALSE(plan({"fill", "start"}).request.fill().has_bytes_per_second());
    const CtlPlan stop = plan({"fill", "stop", "--rate=0"});
    EXPECT_TRUE(stop.request.fill().has_run());
    EXPECT_FALSE(stop.request.fill().run());
    EXPECT_TRUE(stop.request.fill().has_bytes_per_second());
    const CtlPlan rate = plan({"fill", "--rate=50M"});
    EXPECT_FALSE(rate.request.fill().has_run());
    EXPECT_EQ(rate.request.fill().bytes_per_second(), uint64_t{50} << 20);
    EXPECT_NE(complaint({"fill", "--socket=s"}), "");
    EXPECT_NE(complaint({"fill", "on", "--socket=s"}), "");
    EXPECT_NE(complaint({"pause", "--rate=1", "--socket=s"}), "");
}

TEST(CtlOptions, AKeeperIsNamedOrAskedForAtTheSocket) {
    EXPECT_EQ(plan({"take-over"}).action, Action::kTakeOver);
    EXPECT_EQ(plan({"take-over"}).binary, "");
    EXPECT_EQ(plan({"take-over", "/opt/new"}).binary, "/opt/new");
    const auto by_pid = parse({"take-over", "--keeper=7", "--json"});
    ASSERT_TRUE(by_pid) << by_pid.error().message;
    EXPECT_EQ(by_pid->keeper, 7);
    EXPECT_TRUE(by_pid->json);
    EXPECT_NE(complaint({"take-over"}), "");
    EXPECT_NE(complaint({"take-over", "--keeper=7", "--socket=s"}), "");
    EXPECT_NE(complaint({"take-over", "--keeper=0"}), "");
    EXPECT_NE(complaint({"show", "--keeper=7"}), "");
}

TEST(CtlOptions, TopTakesSeveralSockets) {
    const auto top = parse({"top", "/a", "--socket=/b", "/c", "--interval=0.5", "--count=3"});
    ASSERT_TRUE(top) << top.error().message;
    EXPECT_EQ(top->action, Action::kTop);
    EXPECT_EQ(top->sockets, (std::vector<std::string>{"/b", "/a", "/c"}));
    EXPECT_EQ(top->interval, std::chrono::milliseconds(500));
    EXPECT_EQ(top->count, 3U);
    EXPECT_FALSE(top->batch);
    EXPECT_EQ(parse({"top", "/a"})->interval, std::chrono::seconds(1));
    EXPECT_NE(complaint({"top"}), "");
    EXPECT_NE(complaint({"top", "/a", "--json"}), "");
    for (const char* const text : {"0", "0.09", "3601", "-1", "nan", "1s", "inf"}) {
        const std::string option = std::string("--interval=") + text;
        EXPECT_NE(complaint({"top", "/a", option.c_str()}), "") << text;
    }
    EXPECT_NE(complaint({"show", "--socket=s", "--count=1"}), "");
    EXPECT_TRUE(plan({"stat"}).statistics);
}

TEST(CtlOptions, AStateIsPrintedWithoutADaemon) {
    const auto parsed = parse({"state", "blk.state"});
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->action, Action::kPrintState);
    EXPECT_EQ(parsed->state_path, "blk.state");
    EXPECT_NE(complaint({"state"}), "");
    EXPECT_NE(complaint({"state", "a", "b"}), "");
    EXPECT_NE(complaint({"state", "a", "--force"}), "");
}

/// Whatever listens at a socket may send texts that command the terminal.
TEST(CtlReport, TextsOfAReplyCannotCommandATerminal) {
    control::v1::Reply reply;
    auto& device = *reply.mutable_program()->add_devices();
    device.set_name("a\x1b[2Jb\n");
    device.mutable_block()->set_image("\xc2\x9bm");
    device.mutable_block()->set_stop_reason("fine");
    make_printable(reply);
    EXPECT_EQ(device.name(), "a?[2Jb?");
    EXPECT_EQ(device.block().image(), "?m");
    EXPECT_EQ(device.block().stop_reason(), "fine");
    control::v1::Reply error;
    error.mutable_error()->set_message("no\rsuch");
    make_printable(error);
    EXPECT_EQ(error.error().message(), "no?such");
}

TEST(CtlReport, ShowsHowFarAFillIs) {
    control::v1::Program program;
    auto& block = *program.add_devices()->mutable_block();
    EXPECT_EQ(show_text(program).find("fill"), std::string::npos);
    auto& fill = *block.mutable_fill();
    fill.set_running(true);
    fill.set_clusters_done(1);
    fill.set_clusters_total(4);
    fill.set_cluster_bytes(65536);
    fill.set_bytes_per_second(1 << 20);
    fill.set_last_error("copying: No space left on device");
    EXPECT_NE(show_text(program).find("running, 25.0 %: 65536 bytes (64.0 KiB) of 262144 bytes "
                                      "(256.0 KiB), at most 1048576 bytes (1.0 MiB) a second; "
                                      "copying: No space left on device"),
              std::string::npos)
        << show_text(program);
    fill.set_complete(true);
    EXPECT_NE(show_text(program).find("complete"), std::string::npos);
}

TEST(CtlOptions, LimitsAreThoseThatAreGiven) {
    const auto limits = plan({"limit", "--bytes=100M:1G", "--write-ops", "7"}).request.set_limits();
    EXPECT_EQ(limits.limits().bytes().per_second(), uint64_t{100} << 20);
    EXPECT_EQ(limits.limits().bytes().burst(), uint64_t{1} << 30);
    EXPECT_EQ(limits.limits().write_operations().per_second(), 7U);
    EXPECT_FALSE(limits.limits().has_operations());
    EXPECT_FALSE(limits.has_group());
    EXPECT_EQ(plan({"limit", "--group=g"}).request.set_limits().group(), "g");
    EXPECT_TRUE(plan({"limit", "--no-group"}).request.set_limits().has_group());
    EXPECT_EQ(plan({"limit", "--no-group"}).request.set_limits().group(), "");
}

TEST(CtlOptions, LimitsOfAnEntropyDevice) {
    const auto request = plan({"limit", "--max-bytes=4K", "--period=1000"}).request;
    EXPECT_EQ(request.set_entropy_limit().bytes_max(), 4096U);
    EXPECT_EQ(request.set_entropy_limit().period_milliseconds(), 1000U);
    const auto away = plan({"limit", "--max-bytes=0"}).request;
    EXPECT_TRUE(away.set_entropy_limit().has_bytes_max());
    EXPECT_EQ(away.set_entropy_limit().bytes_max(), 0U);
    EXPECT_FALSE(away.set_entropy_limit().has_period_milliseconds());
    for (const char* const period : {"--period=0", "--period=86400001", "--period=x"}) {
        EXPECT_NE(complaint({"limit", period, "--socket=s"}), "");
    }
    EXPECT_NE(complaint({"limit", "--max-bytes=1", "--bytes=1", "--socket=s"}), "");
    EXPECT_NE(complaint({"allow", "--max-bytes=1", "--socket=s"}), "");
}

TEST(CtlOptions, LimitsOfANetworkDeviceAreAnotherRequest) {
    const auto request = plan({"limit", "--send-bytes=10M", "--receive-frames=0"}).request;
    EXPECT_FALSE(request.has_set_limits());
    const control::v1::SetNetworkLimits& limits = request.set_network_limits();
    EXPECT_EQ(limits.send_bytes(), uint64_t{10} << 20);
    EXPECT_FALSE(limits.has_send_frames());
    EXPECT_FALSE(limits.has_receive_bytes());
    EXPECT_TRUE(limits.has_receive_frames());
    EXPECT_EQ(limits.receive_frames(), 0U);
    EXPECT_NE(complaint({"limit", "--send-bytes=1", "--bytes=1", "--socket=s"}), "");
    EXPECT_NE(complaint({"limit", "--send-bytes=1", "--no-group", "--socket=s"}), "");
    EXPECT_NE(complaint({"limit", "--send-bytes=1", "--max-bytes=1", "--socket=s"}), "");
    EXPECT_NE(complaint({"limit", "--send-frames=x", "--socket=s"}), "");
    EXPECT_NE(complaint({"drain", "--send-frames=1", "--socket=s"}), "");
}

TEST(CtlOptions, AllowedSendersAreListsThatMayBeEmpty) {
    const auto request =
        plan({"allow", "--mac=52:54:00:00:00:01", "--mac=52:54:00:00:00:02"}).request;
    const control::v1::SetAllowedSenders& allowed = request.set_allowed_senders();
    ASSERT_EQ(allowed.macs().names_size(), 2);
    EXPECT_EQ(allowed.macs().names(0), "52:54:00:00:00:01");
    EXPECT_EQ(allowed.macs().names(1), "52:54:00:00:00:02");
    EXPECT_FALSE(allowed.has_addresses());
    const auto any = plan({"allow", "--any-mac", "--ip=10.0.0.0/8"}).request;
    EXPECT_TRUE(any.set_allowed_senders().has_macs());
    EXPECT_EQ(any.set_allowed_senders().macs().names_size(), 0);
    EXPECT_EQ(any.set_allowed_senders().addresses().names(0), "10.0.0.0/8");
    EXPECT_EQ(complaint({"allow", "--socket=s"}),
              "allow takes at least one of its options, like --ip=192.0.2.7");
    EXPECT_EQ(complaint({"allow", "--ip=10.0.0.1", "--any-ip", "--socket=s"}),
              "--ip and --any-ip exclude each other");
    EXPECT_NE(complaint({"show", "--any-ip", "--socket=s"}), "");
}

TEST(CtlReport, ListsOfTextsArePrintable) {
    control::v1::Program program;
    auto& policy = *program.add_devices()->mutable_network()->mutable_policy();
    policy.set_send_frames(7);
    policy.add_macs("a\nb");
    make_printable(program);
    EXPECT_EQ(policy.macs(0).find('\n'), std::string::npos);
    const std::string text = show_text(program);
    EXPECT_NE(text.find("send-frames=7\n"), std::string::npos) << text;
    EXPECT_NE(text.find("allowed addresses  any\n"), std::string::npos) << text;
}

TEST(CtlOptions, ValuesMayStandInAWordOfTheirOwn) {
    const auto parsed = parse({"--socket", "path", "--device", "blk1", "--timeout", "5", "pause"});
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->socket, "path");
    EXPECT_EQ(parsed->request.device(), "blk1");
    EXPECT_EQ(parsed->timeout, std::chrono::seconds(5));
}

TEST(CtlOptions, WrongCommandLinesAreNamed) {
    EXPECT_EQ(complaint({}), "say what to do: a command is missing");
    EXPECT_EQ(complaint({"fly"}), "there is no command fly");
    EXPECT_EQ(complaint({"list"}), "--socket is required: say where the daemon listens");
    EXPECT_EQ(complaint({"--wings", "list"}), "there is no option --wings");
    EXPECT_EQ(complaint({"-x", "list"}), "there is no option -x");
    EXPECT_EQ(complaint({"-", "list"}), "there is no command -");
    EXPECT_EQ(complaint({"list", "--socket"}), "--socket lacks its value");
    EXPECT_EQ(complaint({"list", "more", "--socket=s"}), "'more' is too much for list");
    EXPECT_EQ(complaint({"swap", "--socket=s"}), "swap takes PATH");
    EXPECT_EQ(complaint({"resize", "big", "--socket=s"}),
              "resize takes a size in bytes (suffix K, M, G or T), not 'big'");
    EXPECT_EQ(complaint({"cache", "none", "--socket=s"}),
              "cache takes writeback|writethrough, not 'none'");
    EXPECT_EQ(complaint({"pause", "--force", "--socket=s"}), "--force does not go with pause");
    EXPECT_EQ(complaint({"limit", "--socket=s"}),
              "limit takes at least one of its options, like --bytes=100M or --send-bytes=100M");
    EXPECT_EQ(complaint({"limit", "--bytes=x", "--socket=s"}),
              "--bytes takes a rate like 100M, or with a burst like 100M:1G");
    EXPECT_EQ(complaint({"limit", "--bytes=0:5", "--socket=s"}),
              "--bytes=0:5 has a burst without a rate; 0 alone takes the limit away");
    EXPECT_EQ(complaint({"list", "--json", "--json", "--socket=s"}), "--json is given twice");
}

TEST(CtlReport, ListHasALineForEachDevice) {
    control::v1::Program program;
    program.add_devices()->set_name("blk0");
    program.mutable_devices(0)->mutable_block()->set_size_bytes(uint64_t{3} << 30);
    program.mutable_devices(0)->mutable_block()->set_state(control::v1::BlockDevice::STOPPED);
    program.add_devices()->set_name("rng1");
    const std::string text = list_text(program);
    EXPECT_EQ(std::ranges::count(text, '\n'), 2);
    EXPECT_NE(text.find("3221225472 bytes (3.0 GiB)"), std::string::npos);
    EXPECT_NE(text.find("stopped"), std::string::npos);
}

TEST(CtlReport, JsonNamesEveryFieldEvenWhereItIsZero) {
    control::v1::Reply reply;
    reply.mutable_program()->add_devices()->mutable_block();
    const std::string text = json_text(reply);
    EXPECT_NE(text.find("\"read_only\": false"), std::string::npos);
    EXPECT_NE(text.find("\"held_requests\": \"0\""), std::string::npos);
}

}  // namespace
}  // namespace outrigger::ctl
