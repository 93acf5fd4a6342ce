// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/command_sockets.h"

#include <array>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "vhost-user-backend/daemon/command_line.h"

namespace outrigger {
namespace {

constexpr std::array<OptionSpec, 2> kOptions = {{
    {.name = "disk", .value_name = "NAME", .help = "The disk"},
    {.name = "queue-fd",
     .kind = OptionKind::kNumber,
     .value_name = "N",
     .help = "A queue",
     .repeatable = true},
}};

constexpr DeviceProgram kProgram{.name = "outrigger-test",
                                 .type = "test",
                                 .summary = "A test",
                                 .options = kOptions,
                                 .capabilities = {},
                                 .create_device = nullptr};

Result<CommandLine> parse(std::initializer_list<const char*> arguments,
                          const DeviceProgram& program = kProgram) {
    return parse_command_line(arguments, program);
}

std::string refusal(std::initializer_list<const char*> arguments,
                    const DeviceProgram& program = kProgram) {
    const auto line = parse(arguments, program);
    return line ? "accepted" : line.error().message;
}

TEST(CommandSockets, SocketsOfTheServiceManagerAreTakenOnce) {
    EXPECT_EQ(refusal({"--check", "--fd-name=a", "--control-fd-name=b", "--metrics-fd-name=c"}),
              "accepted");
    EXPECT_EQ(refusal({"--check", "--fd-name=a", "--control-fd-name=a"}),
              "--fd-name and --control-fd-name both take the socket a of the service manager: give "
              "each its own");
    EXPECT_EQ(refusal({"--check", "--fd-name=a", "--control-fd-name=b", "--metrics-fd-name=b"}),
              "--control-fd-name and --metrics-fd-name both take the socket b of the service "
              "manager: give each its own");
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--control-fd=4", "--control-fd-name=b"}),
              "--control-socket, --control-fd and --control-fd-name exclude each other: give one "
              "of them");
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--metrics=unix:/m", "--metrics-fd-name=b"}),
              "--metrics and --metrics-fd-name exclude each other: give one");
}

TEST(CommandSockets, NamesOfWhatIsStoredAreNotTheirs) {
    EXPECT_EQ(refusal({"--check", "--fd-name=outrigger.disk"}),
              "--fd-name=outrigger.disk: names that begin with outrigger. are of what this program "
              "stores: choose another");
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--metrics-fd-name=outrigger.s"}),
              "--metrics-fd-name=outrigger.s: names that begin with outrigger. are of what this "
              "program stores: choose another");
    EXPECT_EQ(refusal({"--check", "--fd-name=outrigger-disk"}), "accepted");
}

std::vector<ActivatedRequest> own_sockets(const OptionValues& values) {
    std::vector<ActivatedRequest> requests;
    if (auto name = values.text("disk")) {
        requests.push_back(
            {.option = "--disk", .name = *std::move(name), .kind = ActivatedKind::kUnixListener});
    }
    return requests;
}

TEST(CommandSockets, SocketsOfTheDevicesThemselvesAreTakenOnceToo) {
    DeviceProgram program = kProgram;
    program.activated_sockets = own_sockets;
    const auto line = parse({"--check",
                             "--device=fd-name=a,disk=b",
                             "--device=socket-path=/s,disk=c",
                             "--control-fd=7"},
                            program);
    ASSERT_TRUE(line) << line.error().message;
    std::vector<std::string> names;
    for (const ActivatedRequest& request : line->activated) {
        names.push_back(request.name);
    }
    EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_EQ(line->inherited, std::vector<int>{7});
    EXPECT_EQ(refusal({"--check", "--device=fd-name=a,disk=b", "--device=fd-name=b"}, program),
              "--disk and --fd-name both take the socket b of the service manager: give each its "
              "own");
    EXPECT_NE(refusal({"--socket-path=/s", "--disk=b"}, program).find("--disk=b needs sockets"),
              std::string::npos);
}

// Else what $LISTEN_FDS names would be closed before the device takes it.
TEST(CommandSockets, DescriptorsThatAreGivenSeveralTimesAreAllInherited) {
    const auto line = parse({"--check",
                             "--device=socket-path=/s,queue-fd=3,queue-fd=0X1f,queue-fd=5",
                             "--device=socket-path=/t,queue-fd=6",
                             "--control-fd=7"});
    ASSERT_TRUE(line) << line.error().message;
    EXPECT_EQ(line->inherited, (std::vector<int>{7, 3, 31, 5, 6}));
}

TEST(CommandSockets, DescriptorsAreTakenOnce) {
    const std::string twice = "--queue-fd takes descriptor 3 twice: give each its own";
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--queue-fd=3", "--queue-fd=0x3"}), twice);
    EXPECT_EQ(refusal({"--check",
                       "--device=socket-path=/s,queue-fd=3",
                       "--device=socket-path=/t,queue-fd=3"}),
              twice);
    // It is for all devices.
    EXPECT_EQ(
        refusal({"--check", "--queue-fd=3", "--device=socket-path=/s", "--device=socket-path=/t"}),
        twice);
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--queue-fd=3", "--control-fd=3"}),
              "--control-fd and --queue-fd both take descriptor 3: give each its own");
    EXPECT_EQ(refusal({"--check", "--device=fd=3", "--device=socket-path=/t,queue-fd=3"}),
              "--fd and --queue-fd both take descriptor 3: give each its own");
    EXPECT_EQ(refusal({"--check", "--socket-path=/s", "--queue-fd=3", "--control-fd=4"}),
              "accepted");
}

}  // namespace
}  // namespace outrigger
