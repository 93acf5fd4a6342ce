// SPDX-License-Identifier: Apache-2.0
#include "devices/fs/fuse_request.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "devices/fs/fs_server.h"

namespace outrigger::fs {
namespace {

/// The body of a request, put together piece by piece.
class Body final {
  public:
    template <class T>
    Body& object(const T& value) {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }

    /// With its NUL.
    Body& text(const std::string& value) {
        const auto bytes = std::as_bytes(std::span(value.c_str(), value.size() + 1));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }

    Body& raw(const std::string& value) {
        const auto bytes = std::as_bytes(std::span(value));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }

    operator Bytes() const { return bytes_; }

  private:
    std::vector<std::byte> bytes_;
};

/// What it is answered with; 0: none.
template <class T, class Why>
Errno error_of(const Result<T, Why>& result) {
    return result ? 0 : Errno{result.error()};
}

InHeader header_of(uint32_t opcode, uint32_t length) {
    InHeader header{};
    header.len = length;
    header.opcode = opcode;
    return header;
}

TEST(FuseHeader, TakesALengthThatIsThatOfTheChain) {
    const auto header = parse_header(header_of(FUSE_LOOKUP, 44), 44);
    ASSERT_TRUE(header.has_value());
    EXPECT_EQ(header->body_bytes, 4U);
}

TEST(FuseHeader, RefusesALengthBeyondTheChain) {
    EXPECT_EQ(error_of(parse_header(header_of(FUSE_LOOKUP, 45), 44)), EINVAL);
}

TEST(FuseHeader, RefusesALengthBelowTheChain) {
    EXPECT_EQ(error_of(parse_header(header_of(FUSE_LOOKUP, 43), 44)), EINVAL);
}

TEST(FuseHeader, LetsAWriteBeLongerThanItSays) {
    EXPECT_EQ(error_of(parse_header(header_of(FUSE_WRITE, 80), 4096)), 0);
}

TEST(FuseHeader, RefusesALengthBelowItsOwn) {
    EXPECT_EQ(error_of(parse_header(header_of(FUSE_WRITE, 39), 4096)), EINVAL);
}

TEST(FuseHeader, RefusesMoreExtensionsThanBody) {
    InHeader header = header_of(FUSE_MKDIR, 48);
    header.total_extlen = 2;
    EXPECT_EQ(error_of(parse_header(header, 48)), EINVAL);
}

TEST(FuseName, TakesOneComponent) {
    const Body body = Body().text("a b\xff");
    const auto name = parse_name(body);
    ASSERT_TRUE(name.has_value());
    EXPECT_EQ(name->view(), "a b\xff");
}

class FuseBadName : public ::testing::TestWithParam<const char*> {};

TEST_P(FuseBadName, IsRefused) {
    EXPECT_EQ(error_of(parse_name(Body().text(GetParam()))), EINVAL);
}

INSTANTIATE_TEST_SUITE_P(NoComponents,
                         FuseBadName,
                         ::testing::Values("", ".", "..", "/", "/etc", "a/b", "a/", "../a"));

TEST(FuseName, TakesThreeDots) {
    EXPECT_EQ(error_of(parse_name(Body().text("..."))), 0);
    EXPECT_FALSE(parse_dots(Body().text("...")));
}

TEST(FuseName, RefusesAMissingNul) {
    EXPECT_EQ(error_of(parse_name(Body().raw("abc"))), EINVAL);
}

TEST(FuseDots, AreTheFileAndTheDirectoryAbove) {
    EXPECT_EQ(parse_dots(Body().text(".")), Dots::kItself);
    EXPECT_EQ(parse_dots(Body().text("..")), Dots::kParent);
}

TEST(FuseDots, AreNothingElse) {
    for (const char* const text : {"", "...", "/", "./", "../", "a"}) {
        EXPECT_FALSE(parse_dots(Body().text(text))) << text;
    }
    EXPECT_FALSE(parse_dots({}));
    EXPECT_FALSE(parse_dots(Body().raw("."))) << "without its end";
    EXPECT_FALSE(parse_dots(Body().raw("..")));
    EXPECT_FALSE(parse_dots(Body().text(".").text(".")));
}

TEST(FuseName, RefusesBytesBehindTheNul) {
    EXPECT_EQ(error_of(parse_name(Body().text("a").raw("b"))), EINVAL);
}

TEST(FuseName, TakesTheLongest) {
    EXPECT_EQ(error_of(parse_name(Body().text(std::string(255, 'x')))), 0);
}

TEST(FuseName, RefusesALongerOne) {
    EXPECT_EQ(error_of(parse_name(Body().text(std::string(256, 'x')))), ENAMETOOLONG);
}

TEST(FuseFixed, RefusesAByteLess) {
    const std::string bytes(sizeof(fuse_open_in) - 1, '\0');
    EXPECT_EQ(error_of(parse_fixed<fuse_open_in>(Body().raw(bytes))), EINVAL);
}

TEST(FuseFixed, RefusesAByteMore) {
    const std::string bytes(sizeof(fuse_open_in) + 1, '\0');
    EXPECT_EQ(error_of(parse_fixed<fuse_open_in>(Body().raw(bytes))), EINVAL);
}

TEST(FuseRename, TakesBothNames) {
    const Body body = Body().object(fuse_rename2_in{7, 2, 0}).text("a").text("b");
    const auto rename = parse_rename(body, true);
    ASSERT_TRUE(rename.has_value());
    EXPECT_EQ(rename->new_parent, 7U);
    EXPECT_EQ(rename->flags, 2U);
    EXPECT_EQ(rename->from.view(), "a");
    EXPECT_EQ(rename->to.view(), "b");
}

TEST(FuseRename, RefusesASlashInTheSecondName) {
    const Body body = Body().object(fuse_rename_in{7}).text("a").text("../b");
    EXPECT_EQ(error_of(parse_rename(body, false)), EINVAL);
}

TEST(FuseRename, RefusesAMissingSecondName) {
    EXPECT_EQ(error_of(parse_rename(Body().object(fuse_rename_in{7}).text("a"), false)), EINVAL);
}

TEST(FuseRename, RefusesAFlagThatIsNotKnown) {
    const Body body = Body().object(fuse_rename2_in{7, 8, 0}).text("a").text("b");
    EXPECT_EQ(error_of(parse_rename(body, true)), EINVAL);
}

TEST(FuseSymlink, TakesAnyTarget) {
    const Body body = Body().text("l").text("../../etc/passwd");
    const auto link = parse_symlink(body, {});
    ASSERT_TRUE(link.has_value());
    EXPECT_STREQ(link->target, "../../etc/passwd");
}

TEST(FuseSymlink, RefusesAnAbsoluteName) {
    EXPECT_EQ(error_of(parse_symlink(Body().text("/l").text("t"), {})), EINVAL);
}

TEST(FuseSymlink, RefusesATargetOfAPathAndMore) {
    const Body body = Body().text("l").text(std::string(4096, 'x'));
    EXPECT_EQ(error_of(parse_symlink(body, {})), ENAMETOOLONG);
}

TEST(FuseExtensions, AreRefusedWhereNoneWereAgreedOn) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{16, kExtensionGroups})
                          .object(uint32_t{1})
                          .object(uint32_t{44});
    EXPECT_EQ(error_of(parse_mkdir(body, {})), EINVAL);
}

TEST(FuseExtensions, NameASupplementaryGroup) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{16, kExtensionGroups})
                          .object(uint32_t{1})
                          .object(uint32_t{44});
    const auto wish = parse_mkdir(body, {.supplementary_group = true});
    ASSERT_TRUE(wish.has_value());
    EXPECT_EQ(wish->extensions.group, 44U);
}

TEST(FuseExtensions, RefuseAGroupThatIsMissing) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{12, kExtensionGroups})
                          .object(uint32_t{1});
    EXPECT_EQ(error_of(parse_mkdir(body, {.supplementary_group = true})), EINVAL);
}

TEST(FuseExtensions, RefuseARecordThatIsLongerThanWhatIsLeft) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{24, kExtensionGroups})
                          .object(uint32_t{0});
    EXPECT_EQ(error_of(parse_mkdir(body, {.supplementary_group = true})), EINVAL);
}

TEST(FuseExtensions, RefuseFewerBytesThanTheHeaderSays) {
    const Body body = Body().object(fuse_mkdir_in{0755, 0}).text("d");
    EXPECT_EQ(error_of(parse_mkdir(body, {.extension_bytes = 8})), EINVAL);
}

TEST(FuseExtensions, RefuseARecordOfNoBytes) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{0, kExtensionGroups});
    EXPECT_EQ(error_of(parse_mkdir(body, {.supplementary_group = true})), EINVAL);
}

TEST(FuseExtensions, HaveASecurityContext) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{8 + 8 + 17 + 3, 1})
                          .object(fuse_secctx{3, 0})
                          .text("security.selinux")
                          .raw("abc");
    const auto wish = parse_mkdir(body, {.security_context = true});
    ASSERT_TRUE(wish.has_value());
    ASSERT_TRUE(wish->extensions.security.has_value());
    EXPECT_STREQ(wish->extensions.security->name, "security.selinux");
    EXPECT_EQ(wish->extensions.security->value.size(), 3U);
}

TEST(FuseExtensions, RefuseASecurityContextThatLiesAboutItsSize) {
    const Body body = Body()
                          .object(fuse_mkdir_in{0755, 0})
                          .text("d")
                          .object(ExtensionHeader{8 + 8 + 17 + 3, 1})
                          .object(fuse_secctx{4, 0})
                          .text("security.selinux")
                          .raw("abc");
    EXPECT_EQ(error_of(parse_mkdir(body, {.security_context = true})), EINVAL);
}

TEST(FuseTmpfile, TakesTheNameThatTheKernelMakesUp) {
    EXPECT_EQ(error_of(parse_tmpfile(Body().object(fuse_create_in{}).text("/"), {})), 0);
}

TEST(FuseSetxattr, TakesTheShortForm) {
    const Body body = Body().object(uint32_t{3}).object(uint32_t{1}).text("user.a").raw("xyz");
    const auto wish = parse_setxattr(body, {});
    ASSERT_TRUE(wish.has_value());
    EXPECT_STREQ(wish->name, "user.a");
    EXPECT_EQ(wish->value.size(), 3U);
    EXPECT_EQ(wish->flags, 1U);
}

TEST(FuseSetxattr, TakesTheLongForm) {
    const Body body = Body()
                          .object(fuse_setxattr_in{1, 0, FUSE_SETXATTR_ACL_KILL_SGID, 0})
                          .text("user.a")
                          .raw("x");
    const auto wish = parse_setxattr(body, {.long_setxattr = true});
    ASSERT_TRUE(wish.has_value());
    EXPECT_TRUE(wish->kills_sgid);
}

TEST(FuseSetxattr, RefusesAValueThatIsShorterThanItsSize) {
    const Body body = Body().object(uint32_t{4}).object(uint32_t{0}).text("user.a").raw("xyz");
    EXPECT_EQ(error_of(parse_setxattr(body, {})), EINVAL);
}

TEST(FuseSetxattr, RefusesAValueThatIsLongerThanItsSize) {
    const Body body = Body().object(uint32_t{2}).object(uint32_t{0}).text("user.a").raw("xyz");
    EXPECT_EQ(error_of(parse_setxattr(body, {})), EINVAL);
}

TEST(FuseSetxattr, RefusesASizeBeyondWhatTheHostHas) {
    const Body body = Body().object(uint32_t{65537}).object(uint32_t{0}).text("user.a");
    EXPECT_EQ(error_of(parse_setxattr(body, {})), E2BIG);
}

TEST(FuseInit, TakesTheStructOfBeforeInitExt) {
    const Body body = Body()
                          .object(uint32_t{7})
                          .object(uint32_t{31})
                          .object(uint32_t{4096})
                          .object(uint32_t{FUSE_ASYNC_READ});
    const auto init = parse_init(body);
    ASSERT_TRUE(init.has_value());
    EXPECT_EQ(init->flags, uint64_t{FUSE_ASYNC_READ});
}

TEST(FuseInit, RefusesInitExtWithoutItsSecondHalf) {
    const Body body = Body()
                          .object(uint32_t{7})
                          .object(uint32_t{38})
                          .object(uint32_t{4096})
                          .object(uint32_t{FUSE_INIT_EXT});
    EXPECT_EQ(error_of(parse_init(body)), EINVAL);
}

TEST(FuseInit, ReadsTheSecondHalf) {
    fuse_init_in args{};
    args.flags = FUSE_INIT_EXT;
    args.flags2 = FUSE_SECURITY_CTX >> 32;
    const auto init = parse_init(Body().object(args));
    ASSERT_TRUE(init.has_value());
    EXPECT_NE(init->flags & FUSE_SECURITY_CTX, 0U);
}

TEST(FuseNegotiation, OffersNothingThatTheDriverDoesNotHave) {
    const auto answer = negotiate({}, {.major = 7, .minor = 38, .flags = FUSE_ASYNC_READ});
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->flags, uint64_t{FUSE_ASYNC_READ});
}

TEST(FuseNegotiation, AnswersWithTheDriversMinor) {
    EXPECT_EQ(negotiate({}, {.major = 7, .minor = 31})->minor, 31U);
}

TEST(FuseNegotiation, RefusesADriverThatIsTooOld) {
    EXPECT_EQ(error_of(negotiate({}, {.major = 7, .minor = 26})), EPROTO);
}

TEST(FuseNegotiation, RefusesADriverWithoutTheAclsThatAreDemanded) {
    FsSettings settings;
    settings.posix_acl = Demand::kAlways;
    EXPECT_EQ(error_of(negotiate(settings, {.major = 7, .minor = 38})), EPROTO);
}

TEST(FuseNegotiation, GoesWithoutAclsThatAreOnlyWished) {
    FsSettings settings;
    settings.posix_acl = Demand::kAuto;
    const auto answer = negotiate(settings, {.major = 7, .minor = 38, .flags = FUSE_DONT_MASK});
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ(answer->flags, 0U);
}

TEST(FuseNegotiation, TakesIdmappedMountsWhereNobodyAsksWhoCalls) {
    const Init offer{.major = 7, .minor = 41, .flags = kInitAllowIdmap | FUSE_HANDLE_KILLPRIV_V2};
    FsSettings settings;
    EXPECT_NE(negotiate(settings, offer)->flags & kInitAllowIdmap, 0U);
    settings.killpriv_v2 = true;
    EXPECT_EQ(negotiate(settings, offer)->flags & kInitAllowIdmap, 0U);
    EXPECT_NE(negotiate(settings, offer)->flags & FUSE_HANDLE_KILLPRIV_V2, 0U);
}

TEST(FuseDevice, NumbersAreThoseOfTheGuestsKernel) {
    EXPECT_EQ(encode_device(8, 1), 0x801U);
    EXPECT_EQ(encode_device(0x123, 0x45678), 0x45612378U);
    EXPECT_EQ(encode_device(1, 3), 0x103U);
}

TEST(FuseDevice, NumbersComeBack) {
    const dev_t device = decode_device(encode_device(0x123, 0x45678));
    EXPECT_EQ(device, decode_device(0x45612378));
}

TEST(FuseOperations, HaveARowForEachNumberThatIsServed) {
    EXPECT_EQ(operations().size(), size_t{kOpcodeCount});
    EXPECT_EQ(operations()[FUSE_LOOKUP].name, "LOOKUP");
    EXPECT_EQ(operations()[kStatx].name, "STATX");
    EXPECT_EQ(operations()[7].handle, nullptr);
}

}  // namespace
}  // namespace outrigger::fs
