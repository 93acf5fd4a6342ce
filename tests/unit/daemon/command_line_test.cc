// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/command_line.h"

#include <array>
#include <initializer_list>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

constexpr std::array<OptionSpec, 4> kOptions = {{
    {.name = "disk", .value_name = "PATH", .help = "The disk"},
    {.name = "read-only", .kind = OptionKind::kFlag, .help = "Do not write"},
    {.name = "cache",
     .kind = OptionKind::kSize,
     .value_name = "BYTES",
     .help = "How much",
     .default_value = "4K"},
    {.name = "part", .value_name = "TEXT", .help = "One of several", .repeatable = true},
}};

Result<void> check_options(const OptionValues& values) {
    if (values.has("disk")) {
        return {};
    }
    return failure(Error{.message = "--disk is required: give the disk"});
}

constexpr DeviceProgram kProgram{.name = "outrigger-test",
                                 .type = "test",
                                 .summary = "A test",
                                 .options = kOptions,
                                 .capabilities = {},
                                 .create_device = nullptr};

constexpr DeviceProgram kStrictProgram{.name = "outrigger-test",
                                       .type = "test",
                                       .summary = "A test",
                                       .options = kOptions,
                                       .capabilities = {},
                                       .create_device = nullptr,
                                       .check_options = check_options};

Result<CommandLine> parse(std::initializer_list<const char*> arguments,
                          const DeviceProgram& program = kProgram) {
    return parse_command_line(arguments, program);
}

std::string refusal(std::initializer_list<const char*> arguments,
                    const DeviceProgram& program = kProgram) {
    const auto line = parse(arguments, program);
    return line ? "accepted" : line.error().message;
}

// --- One device --------------------------------------------------------------------------------

TEST(CommandLine, SocketPathIsEnough) {
    const auto line = parse({"--socket-path=/s"});
    ASSERT_TRUE(line) << line.error().message;

    ASSERT_EQ(line->devices.size(), 1U);
    EXPECT_EQ(line->action, CommandAction::kServe);
    EXPECT_EQ(line->devices[0].socket_path, "/s");
    EXPECT_EQ(line->devices[0].fd, std::nullopt);
}

TEST(CommandLine, DefaultsAreFilledIn) {
    const auto line = parse({"--socket-path=/s"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->loop, LoopKind::kAuto);
    EXPECT_FALSE(line->exit_on_disconnect);
    EXPECT_FALSE(line->require_sealed);
    EXPECT_FALSE(line->devices[0].postcopy);
    EXPECT_EQ(line->log_level, LogLevel::kInfo);
    EXPECT_EQ(line->message_timeout, std::chrono::seconds(10));
    EXPECT_EQ(line->devices[0].queue_threads, 1U);
    EXPECT_TRUE(line->devices[0].cpus.empty());
    EXPECT_EQ(line->devices[0].poll_max, std::chrono::microseconds(100));
    EXPECT_EQ(line->devices[0].poll_cpu_percent, 100U);
    EXPECT_EQ(line->devices[0].values.number("cache"), 4096U);
}

TEST(CommandLine, TakesValuesBehindASpace) {
    const auto line = parse({"--socket-path", "/s", "--disk", "/d"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].socket_path, "/s");
    EXPECT_EQ(line->devices[0].values.text("disk"), "/d");
}

TEST(CommandLine, TakesEveryProcessOption) {
    const auto line = parse({"--socket-path=/s",
                             "--io=asio",
                             "--exit-on-disconnect",
                             "--log-level=debug",
                             "--message-timeout-ms=50",
                             "--require-sealed"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->loop, LoopKind::kAsio);
    EXPECT_TRUE(line->exit_on_disconnect);
    EXPECT_EQ(line->log_level, LogLevel::kDebug);
    EXPECT_EQ(line->message_timeout, std::chrono::milliseconds(50));
    EXPECT_TRUE(line->require_sealed);
}

TEST(CommandLine, TakesEveryThreadOption) {
    const auto line = parse(
        {"--socket-path=/s", "--queue-threads=4", "--cpus=0-1,3", "--poll-us=25", "--poll-cpu=40"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].queue_threads, 4U);
    EXPECT_EQ(line->devices[0].cpus, (std::vector<unsigned>{0, 1, 3}));
    EXPECT_EQ(line->devices[0].poll_max, std::chrono::microseconds(25));
    EXPECT_EQ(line->devices[0].poll_cpu_percent, 40U);
}

TEST(CommandLine, QueuesAreBalancedUnlessTheyAreFixed) {
    EXPECT_TRUE(parse({"--socket-path=/s"}).value().devices[0].balances_queues);
    EXPECT_TRUE(parse({"--socket-path=/s", "--queue-placement=balanced"})
                    .value()
                    .devices[0]
                    .balances_queues);
    EXPECT_FALSE(
        parse({"--socket-path=/s", "--queue-placement=fixed"}).value().devices[0].balances_queues);
    EXPECT_NE(refusal({"--socket-path=/s", "--queue-placement=somewhere"}), "accepted");
}

TEST(CommandLine, PostcopyIsOfEachDevice) {
    EXPECT_TRUE(parse({"--socket-path=/s", "--postcopy"}).value().devices[0].postcopy);
    const auto line = parse({"--device=socket-path=/a,postcopy", "--device=socket-path=/b"});
    ASSERT_TRUE(line);
    EXPECT_TRUE(line->devices[0].postcopy);
    EXPECT_FALSE(line->devices[1].postcopy);
}

TEST(CommandLine, CheckTakesWhatServingTakesAndServesNot) {
    EXPECT_EQ(parse({"--socket-path=/s"}).value().action, CommandAction::kServe);
    EXPECT_EQ(parse({"--check", "--socket-path=/s"}).value().action, CommandAction::kCheck);
    EXPECT_EQ(refusal({"--check"}), refusal({}));
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--queue-threads=0"}),
              refusal({"--socket-path=/s", "--queue-threads=0"}));
}

TEST(CommandLine, CheckNeedsNoSocketOfTheServiceManager) {
    EXPECT_NE(refusal({"--fd-name=vhost-user"}), "accepted");
    EXPECT_EQ(refusal({"--check", "--fd-name=vhost-user"}), "accepted");
    EXPECT_EQ(refusal({"--check", "--device=fd-name=a", "--device=fd-name=b"}), "accepted");
    EXPECT_EQ(refusal({"--check", "--device=fd-name=a", "--device=fd-name=a"}),
              "two devices have the same socket: give each its own");
}

TEST(CommandLine, SandboxIsOnUnlessToldOtherwise) {
    const auto line = parse({"--socket-path=/s"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->sandbox, SandboxMode::kStandard);
}

TEST(CommandLine, TakesEverySandboxMode) {
    EXPECT_EQ(parse({"--socket-path=/s", "--sandbox=standard"}).value().sandbox,
              SandboxMode::kStandard);
    EXPECT_EQ(parse({"--socket-path=/s", "--sandbox=on"}).value().sandbox, SandboxMode::kStandard);
    EXPECT_EQ(parse({"--socket-path=/s", "--sandbox=strict"}).value().sandbox,
              SandboxMode::kStrict);
    EXPECT_EQ(parse({"--socket-path=/s", "--sandbox=log"}).value().sandbox, SandboxMode::kLog);
    EXPECT_EQ(parse({"--socket-path=/s", "--sandbox=none"}).value().sandbox, SandboxMode::kNone);
}

TEST(CommandLine, RefusesOtherSandboxModes) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--sandbox=off"}),
              "--sandbox takes one of standard, strict, log, none, on, not 'off'");
    EXPECT_NE(refusal({"--socket-path=/s", "--sandbox="}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--sandbox=On"}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--sandbox=on "}), "accepted");
}

TEST(CommandLine, SandboxGivenTwiceIsRefused) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--sandbox=none", "--sandbox=on"}),
              "--sandbox is given twice");
}

TEST(CommandLine, SandboxIsOfTheProcessAndNotOfADevice) {
    EXPECT_EQ(refusal({"--device=socket-path=/s,sandbox=none"}),
              "--device socket-path=/s,sandbox=none: a device has no option sandbox");
}

TEST(CommandLine, FlagTakesNoWord) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--read-only", "on"}), "'on' is not an option");
}

TEST(CommandLine, FlagCanBeSwitchedOff) {
    const auto line = parse({"--socket-path=/s", "--read-only=off"});
    ASSERT_TRUE(line);

    EXPECT_FALSE(line->devices[0].values.flag("read-only"));
}

TEST(CommandLine, CommaInAPathStays) {
    const auto line = parse({"--socket-path=/a,b"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].socket_path, "/a,b");
}

TEST(CommandLine, SocketIsAnAlias) {
    const auto line = parse({"--socket=/s"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].socket_path, "/s");
}

TEST(CommandLine, AliasAndOptionTogetherAreTwice) {
    EXPECT_EQ(refusal({"--socket=/s", "--socket-path=/t"}), "--socket-path is given twice");
}

TEST(CommandLine, FdReplacesThePath) {
    const auto line = parse({"--fd=7"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].fd, 7);
}

TEST(CommandLine, StandardDescriptorsAreNoSockets) {
    EXPECT_EQ(refusal({"--fd=2"}), "--fd takes a number from 3 to 1000000, not '2'");
}

// --- The metrics socket ------------------------------------------------------------------------

TEST(CommandLine, MetricsAreToldAtAPathOrAnAddress) {
    EXPECT_EQ(parse({"--socket-path=/s"})->metrics.text, "");
    const auto path = parse({"--socket-path=/s", "--metrics=unix:/m"});
    ASSERT_TRUE(path);
    EXPECT_EQ(path->metrics.path, "/m");
    EXPECT_FALSE(path->metrics.tcp);
    for (const char* const text : {"--metrics=127.0.0.1:9100", "--metrics=[::1]:1"}) {
        const auto tcp = parse({"--socket-path=/s", text});
        ASSERT_TRUE(tcp) << text;
        EXPECT_TRUE(tcp->metrics.tcp);
        EXPECT_EQ(tcp->metrics.path, "");
    }
    EXPECT_EQ(parse_tcp_address("localhost:9100")->address.ss_family, AF_INET);
    EXPECT_EQ(parse_tcp_address("[::]:65535")->address.ss_family, AF_INET6);
}

TEST(CommandLine, MetricsOfAnotherAddressAreAnotherSocket) {
    const auto key = [](const char* text, const char* socket = "--socket-path=/s") {
        return parse({socket, text})->metrics.key;
    };
    EXPECT_EQ(key("--metrics=127.0.0.1:9100"), key("--metrics=127.0.0.1:9100"));
    EXPECT_NE(key("--metrics=127.0.0.1:9100"), key("--metrics=127.0.0.1:9101"));
    EXPECT_NE(key("--metrics=unix:/m"), key("--metrics=unix:/n"));
    EXPECT_EQ(key("--metrics=unix:/m"), key("--metrics=unix:/m", "--device=socket-path=/s"))
        << "however many devices there are";
}

// What a store has under a number is a device's, and how many there are may change over a restart.
TEST(CommandLine, TheControlSocketIsKnownByNoNumberOfDevices) {
    const auto one = parse({"--device=socket-path=/1", "--control-socket=/c"});
    const auto two =
        parse({"--device=socket-path=/1", "--device=socket-path=/2", "--control-socket=/c"});
    EXPECT_EQ(one->control.key, two->control.key);
    EXPECT_NE(one->control.key, two->devices[1].key);
}

TEST(CommandLine, RefusesMetricsNowhere) {
    for (const char* const text : {"--metrics=unix:",
                                   "--metrics=/m",
                                   "--metrics=9100",
                                   "--metrics=:9100",
                                   "--metrics=127.0.0.1",
                                   "--metrics=127.0.0.1:0",
                                   "--metrics=127.0.0.1:65536",
                                   "--metrics=127.0.0.1:1x",
                                   "--metrics=::1:9100",
                                   "--metrics=[127.0.0.1]:9100",
                                   "--metrics=[]:9100",
                                   "--metrics=example.org:80"}) {
        EXPECT_NE(refusal({"--socket-path=/s", text}), "") << text;
    }
    EXPECT_EQ(refusal({"--socket-path=/s", "--metrics=unix:/s"}),
              "the metrics socket is also that of a device: give it its own");
    EXPECT_EQ(refusal({"--socket-path=/s", "--control-socket=/c", "--metrics=unix:/c"}),
              "the metrics socket is also the control socket: give it its own");
}

// --- The control socket ------------------------------------------------------------------------

TEST(CommandLine, ControlSocketIsAPathOrADescriptor) {
    const auto none = parse({"--socket-path=/s"});
    ASSERT_TRUE(none);
    EXPECT_TRUE(none->control.socket_path.empty());
    EXPECT_EQ(none->control.fd, std::nullopt);
    const auto path = parse({"--socket-path=/s", "--control-socket=/c"});
    ASSERT_TRUE(path);
    EXPECT_EQ(path->control.socket_path, "/c");
    const auto fd = parse({"--socket-path=/s", "--control-fd=4"});
    ASSERT_TRUE(fd);
    EXPECT_EQ(fd->control.fd, 4);
}

TEST(CommandLine, RefusesControlSocketsThatCannotBe) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--control-socket=/c", "--control-fd=4"}),
              "--control-socket and --control-fd exclude each other: give one");
    EXPECT_EQ(refusal({"--socket-path=/s", "--control-socket=/s"}),
              "the control socket is also that of a device: give it its own");
    EXPECT_EQ(refusal({"--fd=4", "--control-fd=4"}),
              "the control socket is also that of a device: give it its own");
    const std::string longest = "--control-socket=/" + std::string(107, 'x');
    EXPECT_EQ(refusal({"--socket-path=/s", longest.c_str()}),
              "--control-socket is longer than a socket's name can be (107 bytes): choose a "
              "shorter one");
}

TEST(CommandLine, NamesArePlainAndOnce) {
    const auto named = parse({"--socket-path=/s", "--name=data.1_a-B"});
    ASSERT_TRUE(named);
    EXPECT_EQ(named->devices[0].name, "data.1_a-B");
    EXPECT_EQ(refusal({"--socket-path=/s", "--name=a b"}),
              "--name takes letters, digits, '-', '_' and '.', at most 64");
    EXPECT_EQ(refusal({"--device", "socket-path=/s,name=a", "--device", "socket-path=/t,name=a"}),
              "two devices are called a: give each its own --name");
}

TEST(CommandLine, WithoutANameADeviceIsCalledByItsKindAndPlace) {
    const auto line = parse(
        {"--device=socket-path=/a", "--device=socket-path=/b,name=x", "--device=socket-path=/c"});
    ASSERT_TRUE(line);
    EXPECT_EQ(line->devices[0].name, "test0");
    EXPECT_EQ(line->devices[1].name, "x");
    EXPECT_EQ(line->devices[2].name, "test2");
}

TEST(CommandLine, NoNameMayBeWhatAnotherDeviceIsCalledWithoutOne) {
    for (const char* const check : {"--check=off", "--check=on"}) {
        EXPECT_EQ(refusal({check, "--device=socket-path=/a,name=test1", "--device=socket-path=/b"}),
                  "two devices are called test1: give each its own --name");
        EXPECT_EQ(refusal({check, "--device=socket-path=/a", "--device=socket-path=/b,name=test0"}),
                  "two devices are called test0: give each its own --name");
    }
}

TEST(CommandLine, RefusesNothing) {
    EXPECT_EQ(refusal({}), "--socket-path is required: say where the front end connects");
}

TEST(CommandLine, RefusesPathAndFd) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--fd=7"}),
              "--socket-path, --fd and --fd-name exclude each other: give one of them");
}

TEST(CommandLine, TakesTheLongestPathThereIs) {
    const std::string path = "--socket-path=/" + std::string(106, 'x');

    EXPECT_TRUE(parse({path.c_str()}));
}

TEST(CommandLine, RefusesAPathOneByteLonger) {
    const std::string path = "--socket-path=/" + std::string(107, 'x');

    EXPECT_EQ(refusal({path.c_str()}),
              "--socket-path is longer than a socket's name can be (107 bytes): choose a shorter "
              "one");
}

TEST(CommandLine, RefusesUnknownOptions) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--bogus"}), "there is no option --bogus");
    EXPECT_EQ(refusal({"--socket-path=/s", "--bogus=1"}), "there is no option --bogus=1");
    EXPECT_EQ(refusal({"--socket-path=/s", "-x"}), "there is no option -x");
}

TEST(CommandLine, RefusesStrayWords) {
    EXPECT_EQ(refusal({"--socket-path=/s", "word"}), "'word' is not an option");
}

TEST(CommandLine, RefusesWordsBehindTheDoubleDash) {
    EXPECT_NE(refusal({"--socket-path=/s", "--", "word"}), "accepted");
}

TEST(CommandLine, RefusesAMissingValue) {
    EXPECT_EQ(refusal({"--socket-path"}), "the last option lacks its value");
}

TEST(CommandLine, ARepeatableOptionIsTakenAsOftenAsItIsGiven) {
    const auto line = parse({"--socket-path=/s", "--part=a,b=c", "--part=d"});
    ASSERT_TRUE(line) << line.error().message;

    EXPECT_EQ(line->devices[0].values.texts("part"), (std::vector<std::string>{"a,b=c", "d"}));
}

TEST(CommandLine, ARepeatableOptionIsAKeyOfDeviceAsOftenAsItIsGiven) {
    const auto line = parse({"--device=socket-path=/s,part=a,,b=c,part=d"});
    ASSERT_TRUE(line) << line.error().message;

    EXPECT_EQ(line->devices[0].values.texts("part"), (std::vector<std::string>{"a,b=c", "d"}));
}

TEST(CommandLine, RefusesAnOptionGivenTwice) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--disk=/a", "--disk=/b"}), "--disk is given twice");
    EXPECT_EQ(refusal({"--socket-path=/s", "--io=asio", "--io=asio"}), "--io is given twice");
}

TEST(CommandLine, RefusesWrongValues) {
    EXPECT_NE(refusal({"--socket-path=/s", "--queue-threads=0"}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--queue-threads=65"}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--io=epoll"}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--log-level=loud"}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--cpus=a"}), "accepted");
    EXPECT_NE(refusal({"--socket-path=/s", "--cache=many"}), "accepted");
}

TEST(CommandLine, AsksTheProgramWhatTheTableCannotSay) {
    EXPECT_EQ(refusal({"--socket-path=/s"}, kStrictProgram), "--disk is required: give the disk");
    EXPECT_TRUE(parse({"--socket-path=/s", "--disk=/d"}, kStrictProgram));
}

// --- Other actions -----------------------------------------------------------------------------

TEST(CommandLine, CapabilitiesIgnoreAllElse) {
    const auto line = parse({"--bogus", "--print-capabilities", "word"}, kStrictProgram);
    ASSERT_TRUE(line);

    EXPECT_EQ(line->action, CommandAction::kCapabilities);
}

TEST(CommandLine, HelpNeedsNothingElse) {
    const auto line = parse({"--help"}, kStrictProgram);
    ASSERT_TRUE(line);

    EXPECT_EQ(line->action, CommandAction::kHelp);
}

TEST(CommandLine, VersionNeedsNothingElse) {
    const auto line = parse({"--version"}, kStrictProgram);
    ASSERT_TRUE(line);

    EXPECT_EQ(line->action, CommandAction::kVersion);
}

// --- Several devices ---------------------------------------------------------------------------

TEST(CommandLine, DeviceHasItsOwnOptions) {
    const auto line = parse({"--device", "socket-path=/s,disk=/d,read-only,queue-threads=2"});
    ASSERT_TRUE(line) << line.error().message;

    ASSERT_EQ(line->devices.size(), 1U);
    EXPECT_EQ(line->devices[0].socket_path, "/s");
    EXPECT_EQ(line->devices[0].values.text("disk"), "/d");
    EXPECT_TRUE(line->devices[0].values.flag("read-only"));
    EXPECT_EQ(line->devices[0].queue_threads, 2U);
}

TEST(CommandLine, DeviceCanBeRepeated) {
    const auto line = parse({"--device=socket-path=/s", "--device=fd=5,disk=/d"});
    ASSERT_TRUE(line);

    ASSERT_EQ(line->devices.size(), 2U);
    EXPECT_EQ(line->devices[0].socket_path, "/s");
    EXPECT_FALSE(line->devices[0].values.has("disk"));
    EXPECT_EQ(line->devices[1].fd, 5);
}

TEST(CommandLine, OptionsOutsideAreDefaultsForAllDevices) {
    const auto line = parse({"--cache=1M",
                             "--read-only",
                             "--device=socket-path=/s",
                             "--device=socket-path=/t,cache=2M,read-only=off"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].values.number("cache"), 1U << 20);
    EXPECT_TRUE(line->devices[0].values.flag("read-only"));
    EXPECT_EQ(line->devices[1].values.number("cache"), 2U << 20);
    EXPECT_FALSE(line->devices[1].values.flag("read-only"));
}

TEST(CommandLine, DoubledCommaIsOne) {
    const auto line = parse({"--device=socket-path=/a,,b,disk=/c,,,,d"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].socket_path, "/a,b");
    EXPECT_EQ(line->devices[0].values.text("disk"), "/c,,d");
}

TEST(CommandLine, ValueMayHoldEqualsSigns) {
    const auto line = parse({"--device=socket-path=/a=b=c"});
    ASSERT_TRUE(line);

    EXPECT_EQ(line->devices[0].socket_path, "/a=b=c");
}

TEST(CommandLine, DeviceErrorsNameTheDevice) {
    EXPECT_EQ(refusal({"--device=socket-path=/s,bogus=1"}),
              "--device socket-path=/s,bogus=1: a device has no option bogus");
    EXPECT_EQ(refusal({"--device=disk=/d"}),
              "--device disk=/d: --socket-path is required: say where the front end connects");
}

TEST(CommandLine, ProcessOptionsAreNoDeviceKeys) {
    EXPECT_NE(refusal({"--device=socket-path=/s,log-level=debug"}), "accepted");
    EXPECT_NE(refusal({"--device=socket-path=/s,help"}), "accepted");
}

TEST(CommandLine, DeviceKeyGivenTwiceIsRefused) {
    EXPECT_EQ(refusal({"--device=socket-path=/s,disk=/a,disk=/b"}),
              "--device socket-path=/s,disk=/a,disk=/b: --disk is given twice");
}

TEST(CommandLine, EmptyKeysAreRefused) {
    EXPECT_NE(refusal({"--device=socket-path=/s,=1"}), "accepted");
    EXPECT_NE(refusal({"--device=,socket-path=/s"}), "accepted");
}

TEST(CommandLine, EmptyDeviceIsRefused) {
    EXPECT_NE(refusal({"--device="}), "accepted");
}

TEST(CommandLine, SocketOutsideOfDeviceIsRefused) {
    EXPECT_EQ(refusal({"--socket-path=/s", "--device=socket-path=/t"}),
              "with --device, the socket is one of its keys: --device socket-path=PATH,...");
}

TEST(CommandLine, TwoDevicesCannotShareASocket) {
    EXPECT_EQ(refusal({"--device=socket-path=/s", "--device=socket-path=/s"}),
              "two devices have the same socket: give each its own");
    EXPECT_EQ(refusal({"--device=fd=5", "--device=fd=5"}),
              "two devices have the same socket: give each its own");
}

TEST(CommandLine, TooManyDevicesAreRefused) {
    std::vector<std::string> texts;
    for (int i = 0; i < 65; ++i) {
        texts.push_back("--device=socket-path=/s" + std::to_string(i));
    }
    std::vector<const char*> arguments;
    for (const std::string& text : texts) {
        arguments.push_back(text.c_str());
    }

    EXPECT_FALSE(parse_command_line(arguments, kProgram));
    arguments.pop_back();
    EXPECT_TRUE(parse_command_line(arguments, kProgram));
}

// --- Processor lists ---------------------------------------------------------------------------

TEST(CpuList, TakesNumbersAndRanges) {
    EXPECT_EQ(parse_cpu_list("0"), (std::vector<unsigned>{0}));
    EXPECT_EQ(parse_cpu_list("2,0"), (std::vector<unsigned>{2, 0}));
    EXPECT_EQ(parse_cpu_list("1-3,7,5-5"), (std::vector<unsigned>{1, 2, 3, 7, 5}));
    EXPECT_EQ(parse_cpu_list("1023"), (std::vector<unsigned>{1023}));
}

TEST(CpuList, RefusesEverythingElse) {
    EXPECT_EQ(parse_cpu_list(""), std::nullopt);
    EXPECT_EQ(parse_cpu_list(","), std::nullopt);
    EXPECT_EQ(parse_cpu_list("1,"), std::nullopt);
    EXPECT_EQ(parse_cpu_list("1-"), std::nullopt);
    EXPECT_EQ(parse_cpu_list("3-1"), std::nullopt);
    EXPECT_EQ(parse_cpu_list("-1"), std::nullopt);
    EXPECT_EQ(parse_cpu_list("1 2"), std::nullopt);
    EXPECT_EQ(parse_cpu_list("1024"), std::nullopt);
    EXPECT_EQ(parse_cpu_list("0-4294967296"), std::nullopt);
}

}  // namespace
}  // namespace outrigger
