// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/control/message_frame.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <outrigger_control.pb.h>

namespace outrigger::control {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

/// The message that reader has whole; nothing when it has none, or an error.
std::optional<std::string> taken(FrameReader& reader) {
    auto message = reader.take();
    EXPECT_TRUE(message.has_value());
    return message ? *std::move(message) : std::nullopt;
}

std::optional<FrameError> refused(FrameReader& reader) {
    const auto message = reader.take();
    return message ? std::nullopt : std::optional(message.error());
}

std::string framed(const std::string& body) {
    std::string out;
    size_t rest = body.size();
    for (; rest >= 0x80; rest >>= 7) {
        out += static_cast<char>((rest & 0x7f) | 0x80);
    }
    return out + static_cast<char>(rest) + body;
}

TEST(FrameReader, CutsMessagesWhereverTheBytesCameApart) {
    const std::string stream = framed("one") + framed("") + framed(std::string(300, 'x'));
    for (size_t cut = 0; cut <= stream.size(); ++cut) {
        FrameReader reader(1000);
        std::vector<std::string> messages;
        for (const std::string& part : {stream.substr(0, cut), stream.substr(cut)}) {
            reader.add(bytes_of(part));
            while (const auto message = reader.take().value()) {
                messages.push_back(*message);
            }
        }
        EXPECT_EQ(messages, (std::vector<std::string>{"one", "", std::string(300, 'x')})) << cut;
        EXPECT_FALSE(reader.inside_message());
    }
}

TEST(FrameReader, NothingComesBeforeTheLastByte) {
    const std::string stream = framed("hello");
    FrameReader reader(1000);
    for (size_t i = 0; i + 1 < stream.size(); ++i) {
        reader.add(bytes_of(stream.substr(i, 1)));
        EXPECT_EQ(taken(reader), std::nullopt);
        EXPECT_TRUE(reader.inside_message());
    }
    reader.add(bytes_of(stream.substr(stream.size() - 1)));
    EXPECT_EQ(taken(reader), "hello");
}

TEST(FrameReader, LimitIsExact) {
    FrameReader fits(300);
    fits.add(bytes_of(framed(std::string(300, 'a'))));
    EXPECT_TRUE(fits.take().value().has_value());
    FrameReader too_long(300);
    too_long.add(bytes_of(framed(std::string(301, 'a')).substr(0, 2)));
    EXPECT_EQ(refused(too_long), FrameError::kTooLong) << "the length is enough";
    EXPECT_EQ(refused(too_long), FrameError::kTooLong) << "and that stays";
}

TEST(FrameReader, LengthsThatAreNone) {
    for (const std::string& length :
         {std::string("\x80\x80\x80\x80\x80", 5), std::string("\xff\xff\xff\xff\xff\x01", 6)}) {
        FrameReader reader(1000);
        reader.add(bytes_of(length));
        EXPECT_EQ(refused(reader), FrameError::kLength);
    }
    FrameReader largest(1000);
    largest.add(bytes_of(std::string("\xff\xff\xff\xff\x7f", 5)));
    EXPECT_EQ(refused(largest), FrameError::kTooLong);
    FrameReader unfinished(1000);
    unfinished.add(bytes_of(std::string("\x80\x80\x80\x80", 4)));
    EXPECT_EQ(taken(unfinished), std::nullopt);
}

TEST(FrameReader, LongWayOfSayingAShortLength) {
    FrameReader reader(1000);
    reader.add(bytes_of(std::string("\x81\x80\x00z", 4)));
    EXPECT_EQ(taken(reader), "z");
}

TEST(Frame, ComesBackAsItWas) {
    v1::Request request;
    request.set_device(std::string(200, 'd'));
    request.mutable_resize()->set_size_bytes(UINT64_MAX);
    FrameReader reader(kRequestBytesMax);
    reader.add(bytes_of(frame(request)));
    const auto message = reader.take().value();
    ASSERT_TRUE(message);
    v1::Request back;
    ASSERT_TRUE(back.ParseFromString(*message));
    EXPECT_EQ(back.device(), request.device());
    EXPECT_EQ(back.resize().size_bytes(), UINT64_MAX);
    EXPECT_FALSE(reader.inside_message());
}

}  // namespace
}  // namespace outrigger::control
