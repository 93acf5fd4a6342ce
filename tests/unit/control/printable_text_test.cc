// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/printable_text.h"

#include <string>

#include <gtest/gtest.h>
#include <outrigger_control.pb.h>

namespace outrigger::control {
namespace {

TEST(Printable, TextStaysAsItIs) {
    EXPECT_EQ(printable(""), "");
    EXPECT_EQ(printable("/var/disk image.img ~"), "/var/disk image.img ~");
    EXPECT_EQ(printable("\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xbe"),
              "\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xbe");
}

TEST(Printable, ControlCharactersAndStrayBytesAreReplaced) {
    EXPECT_EQ(printable("a\nb\x1b[2J\x7f"), "a?b?[2J?");
    EXPECT_EQ(printable(std::string("\0x", 2)), "?x");
    EXPECT_EQ(printable("\xff\xfe"), "??");
    EXPECT_EQ(printable("\xc3"), "?") << "cut";
    EXPECT_EQ(printable("\xc3\x28"), "?(");
    EXPECT_EQ(printable("\xc0\xaf"), "??") << "a long form of /";
    EXPECT_EQ(printable("\xed\xa0\x80"), "???") << "a surrogate";
    EXPECT_EQ(printable("\xf4\x90\x80\x80"), "????") << "above U+10FFFF";
    EXPECT_EQ(printable("\xe0\x80\x80"), "???");
    EXPECT_EQ(printable("\xf0\x80\x80\x80"), "????");
}

TEST(Printable, ControlCharactersOfTwoBytesAreReplaced) {
    EXPECT_EQ(printable("a\xc2\x9b"
                        "2Jb"),
              "a?2Jb")
        << "CSI";
    EXPECT_EQ(printable("\xc2\x80\xc2\x9f"), "??");
    EXPECT_EQ(printable("\xc2\xa0\xc3\x9b"), "\xc2\xa0\xc3\x9b") << "no control characters";
}

/// The judge is protobuf: a message whose text is no UTF-8 is refused.
TEST(Printable, EveryPairOfBytesMakesAFieldThatIsTaken) {
    for (int first = 0; first < 256; ++first) {
        for (int second = 0; second < 256; ++second) {
            v1::Done message;
            message.set_note(
                printable(std::string{static_cast<char>(first), static_cast<char>(second), 'z'}));
            v1::Done back;
            ASSERT_TRUE(back.ParseFromString(message.SerializeAsString()))
                << first << ' ' << second;
        }
    }
}

}  // namespace
}  // namespace outrigger::control
