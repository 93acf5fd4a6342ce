// SPDX-License-Identifier: Apache-2.0
/// Fifty ways out of a share that a guest, or a guest together with somebody who changes the shared
/// directory on the host, may try; none may succeed, whatever the daemon's sandbox.
///
/// Beside the share lies a directory with what nobody may reach: after every attempt it is as it
/// was, and nothing of it came back in any answer.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

#include "tests/fs/fs_test.h"

namespace outrigger::testing {

/// By what the daemon is contained.
class FsEscapes : public FsTest, public ::testing::WithParamInterface<std::string_view> {
  protected:
    void SetUp() override {
        std::filesystem::create_directory(home_ / "outside");
        home_.write("outside/target", kSecret);
        std::filesystem::create_directory(in_share("sub"));
        write_in_share("sub/inner", "inner");
        write_in_share("plain", "plain");
        ASSERT_EQ(::stat((home_ / "outside/target").c_str(), &before_), 0);
        const std::string mode = "--sandbox=" + std::string(GetParam());
        try {
            serve({.arguments = {"--xattr", mode}});
        } catch (const std::runtime_error& error) {
            // It is refused where a process may not have all walls: in a chroot, say.
            if (mode != "--sandbox=strict" || !daemon_ ||
                daemon().complained().find(mode) == std::string::npos) {
                throw;
            }
            const std::string why = daemon().complained();
            daemon_.reset();
            GTEST_SKIP() << why;
        }
    }

    void TearDown() override {
        if (!daemon_) {
            return;  // skipped
        }

        // Nothing outside was changed, made or removed.
        struct stat now {};

        ASSERT_EQ(::stat((home_ / "outside/target").c_str(), &now), 0);
        EXPECT_EQ(now.st_ino, before_.st_ino);
        EXPECT_EQ(now.st_mode, before_.st_mode);
        EXPECT_EQ(now.st_uid, before_.st_uid);
        EXPECT_EQ(now.st_nlink, before_.st_nlink);
        EXPECT_EQ(now.st_mtim.tv_sec, before_.st_mtim.tv_sec);
        EXPECT_EQ(home_.read("outside/target"), kSecret);
        EXPECT_EQ(home_.read("secret"), kSecret);
        EXPECT_EQ(names_in(home_ / "outside"), 1);
        EXPECT_FALSE(saw_secret_);
        expect_alive();
    }

    /// Sends it, and looks whether what must not come back did.
    FuseAnswer attempt(const FuseRequest& request) {
        FuseAnswer answer = call(request);
        EXPECT_TRUE(answer.used);
        saw_secret_ = saw_secret_ || answer.text().find(kSecret) != std::string::npos;
        return answer;
    }

    /// Tries to read, write, list and change a node that is perhaps outside.
    void attack_node(uint64_t node) {
        if (node == 0) {
            return;
        }
        for (const uint32_t flags : {0U, 1U, 2U, 0x200U | 2U}) {
            const FuseAnswer opened = attempt(ask::open(node, flags));
            if (opened.error() == 0) {
                const uint64_t fh = opened.as<fuse_open_out>().fh;
                (void)attempt(ask::read(node, fh, 0, 4096));
            }
        }
        (void)attempt(ask::lookup(node, "target"));
        (void)attempt(ask::mkdir(node, "made"));
        (void)attempt(ask::unlink(node, "target"));
        (void)attempt(ask::getxattr(node, "user.a", 100));
    }

    static int names_in(const std::string& directory) {
        int count = 0;
        for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) {
            ++count;
        }
        return count;
    }

    struct stat before_ {};

    bool saw_secret_ = false;
};

}  // namespace outrigger::testing
