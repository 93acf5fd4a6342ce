// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/virtiofsd_options.h"

#include <gtest/gtest.h>

namespace outrigger::fs {
namespace {

using Texts = std::vector<std::string>;

Texts translate(std::vector<const char*> arguments) {
    return translate_virtiofsd_options(arguments);
}

TEST(VirtiofsdOptions, LeavesOursAlone) {
    EXPECT_EQ(translate({"p", "--shared-dir=/x", "--cache", "never"}),
              (Texts{"p", "--shared-dir=/x", "--cache", "never"}));
}

TEST(VirtiofsdOptions, TurnsSandboxesIntoOurs) {
    EXPECT_EQ(translate({"p", "--sandbox=namespace"}), (Texts{"p", "--sandbox=on"}));
    EXPECT_EQ(translate({"p", "--sandbox", "chroot"}), (Texts{"p", "--sandbox=on"}));
    EXPECT_EQ(translate({"p", "--sandbox=none"}), (Texts{"p", "--sandbox=none"}));
}

TEST(VirtiofsdOptions, LeavesOutWhatIsDoneAnyway) {
    EXPECT_EQ(translate({"p", "-f", "--announce-submounts", "--seccomp", "kill"}), (Texts{"p"}));
}

TEST(VirtiofsdOptions, KeepsWhatHasNoCounterpart) {
    EXPECT_EQ(translate({"p", "--inode-file-handles=mandatory", "--seccomp=none"}),
              (Texts{"p", "--inode-file-handles=mandatory", "--seccomp=none"}));
}

TEST(VirtiofsdOptions, GivesABareOptionItsValue) {
    EXPECT_EQ(translate({"p", "--posix-acl", "--xattr"}),
              (Texts{"p", "--posix-acl=always", "--xattr"}));
}

TEST(VirtiofsdOptions, TakesAnOptionWithoutItsValueAsItIs) {
    EXPECT_EQ(translate({"p", "--sandbox"}), (Texts{"p", "--sandbox"}));
}

TEST(VirtiofsdOptions, TakesListsApart) {
    EXPECT_EQ(translate({"p", "-o", "source=/x,cache=none,no_xattr,flock,posix_acl"}),
              (Texts{"p", "--shared-dir=/x", "--cache=never", "--flock", "--posix-acl=always"}));
    EXPECT_EQ(translate({"p", "-oxattr", "-o=sandbox=chroot"}),
              (Texts{"p", "--xattr", "--sandbox=on"}));
}

TEST(VirtiofsdOptions, RefusesWhatItDoesNotKnowOfAListByItsName) {
    EXPECT_EQ(translate({"p", "-o", "xattr,timeout=7,xattr=yes"}),
              (Texts{"p", "--xattr", "-o timeout=7", "-o xattr=yes"}));
    EXPECT_EQ(translate({"p", "-o"}), (Texts{"p", "-o"}));
    EXPECT_EQ(translate({"p", "-o", ",,xattr,"}), (Texts{"p", "-o ", "-o ", "--xattr"}));
}

TEST(VirtiofsdOptions, TakesNothing) {
    EXPECT_EQ(translate({}), Texts{});
}

}  // namespace
}  // namespace outrigger::fs
