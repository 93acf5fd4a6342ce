// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/file_transfer.h"

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

/// How much read_by_copy() has in its own memory at a time.
constexpr size_t kPiece = kTransferBytesMax;

class ReadByCopy : public ::testing::Test {
  protected:
    /// The file holds that many bytes, none of which is followed by its like for long.
    void fill(size_t bytes) {
        content_.resize(bytes);
        uint32_t state = 1;
        for (char& letter : content_) {
            state = state * 1'664'525 + 1'013'904'223;
            letter = static_cast<char>('a' + (state >> 24) % 26);
        }
        ASSERT_EQ(std::fwrite(content_.data(), 1, bytes, file_.get()), bytes);
        ASSERT_EQ(std::fflush(file_.get()), 0);
    }

    /// Into buffers of these lengths, each between bytes that must stay as they are.
    Transfer read(const std::vector<size_t>& lengths, uint64_t offset = 0) {
        buffers_.clear();
        buffers_.reserve(lengths.size());
        std::vector<iovec> segments;
        for (const size_t length : lengths) {
            std::string& buffer = buffers_.emplace_back(length + 2, '#');
            segments.push_back({.iov_base = &buffer[1], .iov_len = length});
        }
        return read_by_copy(::fileno(file_.get()), segments, offset);
    }

    /// What the buffers hold, without what is around each.
    std::string text() const {
        std::string text;
        for (const std::string& buffer : buffers_) {
            EXPECT_EQ(buffer.front(), '#');
            EXPECT_EQ(buffer.back(), '#');
            text += buffer.substr(1, buffer.size() - 2);
        }
        return text;
    }

    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };

    std::unique_ptr<std::FILE, Close> file_{std::tmpfile()};
    std::string content_;
    std::vector<std::string> buffers_;
};

TEST_F(ReadByCopy, ABufferOfSeveralPieces) {
    fill(3 * kPiece + 512);
    const Transfer transfer = read({3 * kPiece + 512});
    EXPECT_EQ(transfer.done, 3 * kPiece + 512);
    EXPECT_EQ(transfer.error, 0);
    EXPECT_TRUE(text() == content_);
}

TEST_F(ReadByCopy, BuffersThatLieAcrossThePieces) {
    fill(3 * kPiece);
    const std::vector<size_t> lengths = {
        1, kPiece - 2, 2, 700'001, 4095, kPiece - 700'001 - 4095 - 1, 1, kPiece - 1};
    const Transfer transfer = read(lengths);
    EXPECT_EQ(transfer.done, 3 * kPiece);
    EXPECT_EQ(transfer.error, 0);
    EXPECT_TRUE(text() == content_);
}

TEST_F(ReadByCopy, FromTheMidstOfTheFile) {
    fill(2 * kPiece + 5000);
    const Transfer transfer = read({kPiece - 1, kPiece + 1}, 4096);
    EXPECT_EQ(transfer.done, 2 * kPiece);
    EXPECT_TRUE(text() == content_.substr(4096, 2 * kPiece));
}

TEST_F(ReadByCopy, AFileThatEndsInASecondPiece) {
    fill(kPiece + 100);
    const Transfer transfer = read({kPiece - 10, 60, 2 * kPiece});
    EXPECT_EQ(transfer.done, kPiece + 100);
    EXPECT_EQ(transfer.error, 0);
    EXPECT_TRUE(text() == content_ + std::string(2 * kPiece - 50, '#'));
}

TEST_F(ReadByCopy, AFileThatEndsWithAPiece) {
    fill(kPiece);
    const Transfer transfer = read({kPiece + 1});
    EXPECT_EQ(transfer.done, kPiece);
    EXPECT_EQ(transfer.error, 0);
    EXPECT_TRUE(text() == content_ + "#");
}

TEST_F(ReadByCopy, NothingOfAFileThatCannotBeRead) {
    const int fd = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    std::string buffer(2 * kPiece, '#');
    std::vector<iovec> segments = {{.iov_base = buffer.data(), .iov_len = buffer.size()}};
    const Transfer transfer = read_by_copy(fd, segments, 0);
    ::close(fd);
    EXPECT_EQ(transfer.done, 0U);
    EXPECT_EQ(transfer.error, EBADF);
    EXPECT_EQ(buffer, std::string(2 * kPiece, '#'));
}

}  // namespace
}  // namespace outrigger::fs
