// SPDX-License-Identifier: Apache-2.0
#include "vhost-user-backend/session/journal_file.h"

#include <cstring>
#include <string>

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "vhost-user-backend/base/shared_memory.h"

namespace outrigger {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span(text));
}

std::string text_of(const std::optional<JournalFile::Content>& content) {
    if (!content) {
        return "(nothing)";
    }
    std::string text(content->bytes.size(), '\0');
    if (!text.empty()) {  // of nothing memcpy() takes no null pointer
        std::memcpy(text.data(), content->bytes.data(), text.size());
    }
    return text;
}

/// What a process that comes later reads.
std::optional<JournalFile::Content> read_later(const JournalFile& file) {
    auto other = JournalFile::open(UniqueFd(::fcntl(file.fd(), F_DUPFD_CLOEXEC, 0)));
    return other ? other->read() : std::nullopt;
}

class JournalFileTest : public ::testing::Test {
  protected:
    JournalFileTest() : file_(JournalFile::create().value()) {}

    /// The same bytes in a file whose writer is gone: to be damaged.
    [[nodiscard]] std::vector<std::byte> image() const {
        std::vector<std::byte> bytes(static_cast<size_t>(::lseek(file_.fd(), 0, SEEK_END)));
        EXPECT_EQ(::pread(file_.fd(), bytes.data(), bytes.size(), 0),
                  static_cast<ssize_t>(bytes.size()));
        return bytes;
    }

    void put_byte(size_t at, std::byte value) const {
        ASSERT_EQ(::pwrite(file_.fd(), &value, 1, static_cast<off_t>(at)), 1);
    }

    JournalFile file_;
};

TEST_F(JournalFileTest, ReadsTheNewest) {
    EXPECT_FALSE(read_later(file_));
    for (const char* const text : {"one", "second", "", "the fourth"}) {
        ASSERT_TRUE(file_.write(bytes_of(text)));
        EXPECT_EQ(text_of(read_later(file_)), text);
    }
}

TEST_F(JournalFileTest, AnotherProcessWritesOn) {
    ASSERT_TRUE(file_.write(bytes_of("one")));
    auto other = JournalFile::open(UniqueFd(::fcntl(file_.fd(), F_DUPFD_CLOEXEC, 0)));
    ASSERT_TRUE(other);
    ASSERT_TRUE(other->write(bytes_of("two")));
    EXPECT_EQ(text_of(read_later(file_)), "two");
}

TEST_F(JournalFileTest, TooMuchIsRefusedAndLeavesWhatWasThere) {
    ASSERT_TRUE(file_.write(bytes_of("one")));
    EXPECT_FALSE(file_.write(std::vector<std::byte>(JournalFile::kContentBytesMax + 1)));
    EXPECT_EQ(text_of(read_later(file_)), "one");
    EXPECT_TRUE(file_.write(std::vector<std::byte>(JournalFile::kContentBytesMax)));
}

TEST_F(JournalFileTest, ProgressBelongsToOneContent) {
    using enum JournalFile::Progress;
    ASSERT_TRUE(file_.write(bytes_of("one")));
    for (const auto progress : {kTaking, kReplying, kDone}) {
        file_.set_progress(progress);
        EXPECT_EQ(read_later(file_)->progress, progress);
    }
    ASSERT_TRUE(file_.write(bytes_of("two")));
    EXPECT_EQ(read_later(file_)->progress, kWritten);
}

// Whoever has the file may read and write it at any time: what the kernel is to send must not come
// from there, and where our memory is must not be seen there.
TEST_F(JournalFileTest, OfAReplyItHasNothingButHowMuchWasSent) {
    ASSERT_TRUE(file_.write(bytes_of("one")));
    platform::NotedMessage& note = file_.begin_reply();
    EXPECT_EQ(read_later(file_)->sent, 0U);
    const auto before = image();
    iovec range{};
    note.message = {.msg_name = &range,
                    .msg_namelen = 1,
                    .msg_iov = &range,
                    .msg_iovlen = 2,
                    .msg_control = &range,
                    .msg_controllen = 3,
                    .msg_flags = 4};
    EXPECT_TRUE(image() == before);
    note.moved = 5;
    EXPECT_EQ(read_later(file_)->sent, 5U);
    ASSERT_TRUE(file_.write(bytes_of("two")));
    file_.set_progress(JournalFile::Progress::kReplying);
    EXPECT_FALSE(read_later(file_)->sent) << "of another content";
}

// A writer that dies stops at any byte: whichever it is, one of the two contents is read.
TEST_F(JournalFileTest, IsTheOldOrTheNewWhereverItsWriterDies) {
    const std::string before(300, 'a');
    const std::string after(500, 'b');
    ASSERT_TRUE(file_.write(bytes_of("first")));
    ASSERT_TRUE(file_.write(bytes_of(before)));
    const auto old_image = image();
    ASSERT_TRUE(file_.write(bytes_of(after)));
    const auto new_image = image();
    std::vector<size_t> changed;
    for (size_t i = 0; i < old_image.size(); ++i) {
        if (old_image[i] != new_image[i]) {
            changed.push_back(i);
        }
    }
    ASSERT_GT(changed.size(), 400U);
    // Both orders in which the bytes may get there: header first, and header last.
    for (const bool backwards : {false, true}) {
        for (const size_t at : changed) {
            put_byte(at, old_image[at]);
        }
        for (size_t i = 0; i < changed.size(); ++i) {
            const size_t at = changed[backwards ? changed.size() - 1 - i : i];
            EXPECT_EQ(text_of(read_later(file_)), before) << "after " << i << " bytes";
            put_byte(at, new_image[at]);
        }
        EXPECT_EQ(text_of(read_later(file_)), after);
    }
}

TEST_F(JournalFileTest, ADamagedContentIsNotRead) {
    ASSERT_TRUE(file_.write(bytes_of("old")));
    ASSERT_TRUE(file_.write(bytes_of("new")));
    const auto whole = image();
    for (size_t at = 0; at < whole.size(); ++at) {
        if (whole[at] == std::byte{0}) {
            continue;
        }
        for (int bit = 0; bit < 8; ++bit) {
            put_byte(at, whole[at] ^ static_cast<std::byte>(1 << bit));
            const std::string text = text_of(read_later(file_));
            EXPECT_TRUE(text == "old" || text == "new" || (at < 8 && text == "(nothing)"))
                << "bit " << bit << " of byte " << at << ": " << text;
        }
        put_byte(at, whole[at]);
    }
}

TEST_F(JournalFileTest, OtherFilesAreRefused) {
    EXPECT_FALSE(JournalFile::open(UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC))));
    EXPECT_FALSE(JournalFile::open(create_shared_memory("test", 4096).value()));
    EXPECT_FALSE(JournalFile::open(UniqueFd()));
}

}  // namespace
}  // namespace outrigger
