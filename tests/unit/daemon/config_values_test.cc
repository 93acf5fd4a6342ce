// SPDX-License-Identifier: Apache-2.0
// What the file of --config says beside a command line.
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/command_line.h"
#include "vhost-user-backend/daemon/common_options.h"

namespace outrigger {
namespace {

constexpr std::array<OptionSpec, 1> kOptions = {{
    {.name = "disk", .value_name = "PATH", .help = "The disk", .default_value = "/none"},
}};

constexpr DeviceProgram kProgram{.name = "outrigger-test",
                                 .type = "test",
                                 .summary = "A test",
                                 .options = kOptions,
                                 .capabilities = {},
                                 .create_device = nullptr};

Result<CommandLine> parse(const std::string& text, std::vector<const char*> arguments = {}) {
    arguments.push_back("--config=/c");
    return parse_command_line(arguments, kProgram, text);
}

std::string refusal(const std::string& text, const std::vector<const char*>& arguments = {}) {
    const auto line = parse(text, arguments);
    return line ? "accepted" : line.error().message;
}

const std::string kSection = "[vm1]\nsocket-path = /s\n";

TEST(ConfigValues, NamesSocketsOfTheServiceManager) {
    const auto line = parse("control-fd-name = a\nmetrics-fd-name = b\n[vm1]\nfd-name = c\n" +
                                std::string("[vm2]\nfd-name = d\n"),
                            {"--check"});
    ASSERT_TRUE(line) << line.error().message;
    EXPECT_EQ(line->control.key, "control");
    std::vector<std::string> asked;
    for (const ActivatedRequest& request : line->activated) {
        asked.push_back(request.option + "=" + request.name);
    }
    EXPECT_EQ(asked,
              (std::vector<std::string>{
                  "--fd-name=c", "--fd-name=d", "--control-fd-name=a", "--metrics-fd-name=b"}));
    EXPECT_EQ(refusal("control-fd-name = c\n[vm1]\nfd-name = c\n", {"--check"}),
              "--fd-name and --control-fd-name both take the socket c of the service manager: give "
              "each its own");
    EXPECT_NE(refusal("[vm1]\nfd-name = c\n").find("--fd-name=c needs sockets of a service"),
              std::string::npos);
}

TEST(ConfigValues, TakesEveryOptionOfTheProcess) {
    const auto line = parse(
        "io = asio\nsandbox = strict\nkeeper = none\nkeeper-restarts = 7\n"
        "exit-on-disconnect = on\nmessage-timeout-ms = 50\nrequire-sealed = on\n"
        "log-level = debug\ncontrol-socket = /c\nmetrics = unix:/m\n" +
        kSection);
    ASSERT_TRUE(line) << line.error().message;
    EXPECT_EQ(line->loop, LoopKind::kAsio);
    EXPECT_EQ(line->sandbox, SandboxMode::kStrict);
    EXPECT_EQ(line->keeper, KeeperKind::kNone);
    EXPECT_EQ(line->keeper_restarts, 7U);
    EXPECT_TRUE(line->exit_on_disconnect);
    EXPECT_EQ(line->message_timeout, std::chrono::milliseconds(50));
    EXPECT_TRUE(line->require_sealed);
    EXPECT_EQ(line->log_level, LogLevel::kDebug);
    EXPECT_EQ(line->control.socket_path, "/c");
    EXPECT_EQ(line->metrics.path, "/m");
    ASSERT_EQ(line->devices.size(), 1U);
    EXPECT_EQ(line->devices[0].name, "vm1");
}

// What is new in the table is thought about here, too.
TEST(ConfigValues, EachOptionOfTheProcessIsTakenOrIsForTheCommandLine) {
    const std::map<std::string_view, std::string> taken = {{"control-fd", "4"},
                                                           {"control-fd-name", "a"},
                                                           {"control-socket", "/c"},
                                                           {"exit-on-disconnect", "on"},
                                                           {"io", "asio"},
                                                           {"keeper", "none"},
                                                           {"keeper-restarts", "7"},
                                                           {"log-level", "off"},
                                                           {"message-timeout-ms", "50"},
                                                           {"metrics", "unix:/m"},
                                                           {"metrics-fd-name", "a"},
                                                           {"require-sealed", "on"},
                                                           {"sandbox", "log"}};
    size_t seen = 0;
    for (const OptionSpec& spec : process_options()) {
        if (spec.name == "socket") {
            continue;  // another name of a device's key
        }
        const auto value = taken.find(spec.name);
        seen += value != taken.end() ? 1U : 0U;
        const std::string line =
            std::string(spec.name) + " = " + (value != taken.end() ? value->second : "on");
        EXPECT_EQ(refusal("\n" + line + "\n" + kSection, {"--check"}),
                  value != taken.end() ? "accepted"
                                       : "--config=/c: line 2: " + std::string(spec.name) +
                                             " is for the command line");
    }
    EXPECT_EQ(seen, taken.size());
}

TEST(ConfigValues, TheCommandLineCounts) {
    const auto line = parse("log-level = debug\nsandbox = strict\nrequire-sealed = on\n" + kSection,
                            {"--log-level=error", "--require-sealed=off"});
    ASSERT_TRUE(line) << line.error().message;
    EXPECT_EQ(line->log_level, LogLevel::kError);
    EXPECT_FALSE(line->require_sealed);
    EXPECT_EQ(line->sandbox, SandboxMode::kStrict) << "which it does not say";
}

TEST(ConfigValues, WhatNeitherSaysHasItsDefault) {
    const auto line = parse(kSection);
    ASSERT_TRUE(line) << line.error().message;
    EXPECT_EQ(line->log_level, LogLevel::kInfo);
    EXPECT_EQ(line->sandbox, SandboxMode::kStandard);
    EXPECT_EQ(line->keeper_restarts, 5U);
    EXPECT_TRUE(line->control.key.empty()) << "no socket that an earlier process has left";
    EXPECT_EQ(line->devices[0].values.text("disk"), "/none");
}

TEST(ConfigValues, OptionsOfTheProcessStandBeforeTheSections) {
    EXPECT_EQ(refusal(kSection + "log-level = debug\n"),
              "--config=/c: line 3: log-level is of the whole program: give it before the first "
              "section");
    EXPECT_EQ(refusal(kSection + "take-over = 5\n"),
              "--config=/c: line 3: take-over is for the command line");
}

TEST(ConfigValues, WrongValuesAndKeysAreNamedWithTheirLine) {
    EXPECT_EQ(refusal("colour = red\n" + kSection),
              "--config=/c: line 1: there is no option colour");
    EXPECT_EQ(refusal(kSection + "colour = red\n"),
              "--config=/c: line 3: a device has no option colour");
    EXPECT_EQ(
        refusal("# all\nlog-level = loud\n" + kSection),
        "--config=/c: line 2: --log-level takes one of off, error, warning, info, debug, trace, "
        "not 'loud'");
    EXPECT_EQ(refusal("require-sealed = yes\n" + kSection),
              "--config=/c: line 1: --require-sealed takes on or off, not 'yes'");
    EXPECT_EQ(refusal("io = asio\nio = auto\n" + kSection),
              "--config=/c: line 2: --io is given twice");
}

TEST(ConfigValues, WhatExcludesEachOtherDoesSoAcrossBoth) {
    EXPECT_EQ(refusal("control-socket = /c\n" + kSection, {"--control-fd=4"}),
              "--control-socket and --control-fd exclude each other: give one");
    EXPECT_EQ(refusal("metrics = unix:/s\n" + kSection),
              "the metrics socket is also that of a device: give it its own");
}

TEST(ConfigValues, TheSocketIsNotOneForAllDevices) {
    EXPECT_EQ(refusal("socket-path = /s\n[vm1]\n"),
              "--config=/c: the socket is not one for all devices: give it in each section");
    EXPECT_EQ(refusal("socket = /s\n[vm1]\n"), refusal("socket-path = /s\n[vm1]\n"));
}

TEST(ConfigValues, SectionMayNotBeCalledAsADeviceWithoutAName) {
    EXPECT_EQ(refusal("[test0]\nsocket-path = /s\n", {"--device=socket-path=/t"}),
              "two devices are called test0: give each its own --name");
}

}  // namespace
}  // namespace outrigger
