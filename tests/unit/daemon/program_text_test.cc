// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/daemon/program_text.h"

#include <array>
#include <sstream>
#include <string>

#include <gtest/gtest.h>

namespace outrigger {
namespace {

constexpr std::array<std::string_view, 2> kCapabilities = {"blk-file", "read-only"};
constexpr std::array<OptionSpec, 2> kOptions = {{
    {.name = "disk", .value_name = "PATH", .help = "The disk to serve", .default_value = "/d"},
    {.name = "secret", .help = "Not for everybody", .hidden = true},
}};

constexpr DeviceProgram kProgram{.name = "outrigger-test",
                                 .type = "test",
                                 .summary = "A test",
                                 .options = kOptions,
                                 .capabilities = kCapabilities,
                                 .create_device = nullptr};

bool contains(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

TEST(ProgramText, CapabilitiesAreJson) {
    EXPECT_EQ(capabilities_text(kProgram),
              "{\"type\": \"test\", \"features\": [\"blk-file\", \"read-only\"]}\n");
}

TEST(ProgramText, NoCapabilitiesAreAnEmptyList) {
    DeviceProgram program = kProgram;
    program.capabilities = {};

    EXPECT_EQ(capabilities_text(program), "{\"type\": \"test\", \"features\": []}\n");
}

TEST(ProgramText, HelpShowsOptionsWithTheirDefaults) {
    const std::string help = help_text(kProgram);

    EXPECT_TRUE(contains(help, "\n  --disk=PATH\n      The disk to serve [default: /d].\n"));
    EXPECT_TRUE(contains(help, "\n  --exit-on-disconnect\n"));
}

TEST(ProgramText, HelpHidesHiddenOptions) {
    const std::string help = help_text(kProgram);

    EXPECT_FALSE(contains(help, "--secret"));
    EXPECT_FALSE(contains(help, "--print-man-page"));
}

TEST(ProgramText, HelpFitsATerminal) {
    std::istringstream lines(help_text(kProgram));
    for (std::string line; std::getline(lines, line);) {
        EXPECT_LE(line.size(), 79U) << line;
        EXPECT_FALSE(line.ends_with(' ')) << line;
    }
}

TEST(ProgramText, ManPageFillsItsTemplate) {
    const auto page =
        man_page_text(kProgram, ".\\\" mine\n@HEAD@\n.SH A\n@OPTIONS@\n@TAIL@\n.SH B\n");
    ASSERT_TRUE(page);

    EXPECT_TRUE(page->starts_with(".\\\" mine\n.TH \"outrigger\\-test\" 1"));
    EXPECT_TRUE(contains(*page, "\\fB\\-\\-disk\\fR=\\fIPATH\\fR\nThe disk to serve"));
    EXPECT_TRUE(page->ends_with("\n.SH B\n"));
    EXPECT_FALSE(contains(*page, "@"));
    EXPECT_FALSE(contains(*page, "\n\n"));
}

TEST(ProgramText, ManPageNeedsItsLines) {
    EXPECT_FALSE(man_page_text(kProgram, ""));
    EXPECT_FALSE(man_page_text(kProgram, "@HEAD@\n@OPTIONS@\n"));
}

}  // namespace
}  // namespace outrigger
