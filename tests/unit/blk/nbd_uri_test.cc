// SPDX-License-Identifier: Apache-2.0
#include "devices/blk/nbd/nbd_uri.h"

#include <gtest/gtest.h>

namespace outrigger::blk {
namespace {

void expect_refused(std::string_view text, std::string_view because) {
    const auto uri = parse_nbd_uri(text);
    ASSERT_FALSE(uri) << text;
    EXPECT_NE(uri.error().message.find(because), std::string::npos) << uri.error().message;
    EXPECT_NE(uri.error().message.find(text), std::string::npos) << uri.error().message;
}

TEST(NbdUri, HostPortAndExport) {
    const auto uri = parse_nbd_uri("nbd://server.example:10810/disk%201").value();
    EXPECT_EQ(uri.host, "server.example");
    EXPECT_EQ(uri.port, 10810);
    EXPECT_EQ(uri.export_name, "disk 1");
    EXPECT_FALSE(uri.tls);
    EXPECT_TRUE(uri.socket_path.empty());
}

TEST(NbdUri, PortAndExportMayBeMissing) {
    const auto uri = parse_nbd_uri("nbd://server").value();
    EXPECT_EQ(uri.port, 10809);
    EXPECT_EQ(uri.export_name, "");
    EXPECT_EQ(parse_nbd_uri("nbd://server/").value().export_name, "");
    EXPECT_EQ(parse_nbd_uri("nbd://server//a").value().export_name, "/a");
}

TEST(NbdUri, AddressOfVersion6StandsInBrackets) {
    const auto uri = parse_nbd_uri("nbd://[::1]:5/x").value();
    EXPECT_EQ(uri.host, "::1");
    EXPECT_EQ(uri.port, 5);
    EXPECT_EQ(parse_nbd_uri("nbd://[::1]").value().host, "::1");
    expect_refused("nbd://[::1/x", "lacks its ]");
}

TEST(NbdUri, UnixSocket) {
    const auto uri = parse_nbd_uri("nbd+unix:///disk?socket=/run/a%3Fb.sock").value();
    EXPECT_EQ(uri.socket_path, "/run/a?b.sock");
    EXPECT_EQ(uri.export_name, "disk");
    EXPECT_EQ(parse_nbd_uri("nbd+unix://?socket=/s").value().export_name, "");
}

TEST(NbdUri, TlsTakesAKey) {
    const auto uri =
        parse_nbd_uri("nbds+unix:///?socket=/s&tls-psk-file=/etc/psk&tls-username=vm").value();
    EXPECT_TRUE(uri.tls);
    EXPECT_EQ(uri.tls_psk_file, "/etc/psk");
    EXPECT_EQ(uri.tls_user, "vm");
    EXPECT_EQ(parse_nbd_uri("nbds://vm@server?tls-psk-file=/p").value().tls_user, "vm");
    expect_refused("nbds://server", "pre-shared key");
    expect_refused("nbds://server?tls-certificates=/pki", "given as an address");
    expect_refused("nbds+unix:///?socket=/s&tls-certificates=/pki", "given as an address");
    expect_refused("nbds://192.0.2.1?tls-certificates=/pki&tls-psk-file=/p", "not both");
    expect_refused("nbds://192.0.2.1", "TLS needs");
    expect_refused("nbd://192.0.2.1?tls-certificates=/pki", "nbds://");
    expect_refused("nbds://192.0.2.1?tls-certificates=/pki&tls-verify-peer=false",
                   "always checked");
    expect_refused("nbd://server?tls-psk-file=/p", "nbds://");
}

TEST(NbdUri, TlsTakesCertificatesOfAnAddress) {
    const NbdUri uri = parse_nbd_uri("nbds://192.0.2.1/e?tls-certificates=/pki").value();
    EXPECT_EQ(uri.tls_certificates, "/pki");
    EXPECT_EQ(parse_nbd_uri("nbds://[2001:db8::1]/?tls-certificates=/p&tls-verify-peer=true")
                  .value()
                  .host,
              "2001:db8::1");
}

TEST(NbdUri, WhatCannotBeServedIsRefused) {
    expect_refused("", "begins with none");
    expect_refused("http://server", "begins with none");
    expect_refused("nbd:server", "begins with none");
    expect_refused("nbd://", "names no host");
    expect_refused("nbd:///x", "names no host");
    expect_refused("nbd://server:0", "the port");
    expect_refused("nbd://server:65536", "the port");
    expect_refused("nbd://server:1x", "the port");
    expect_refused("nbd://server/%4", "not well encoded");
    expect_refused("nbd://server/%00", "not well encoded");
    expect_refused("nbd://server/x#part", "fragment");
    expect_refused("nbd://server?colour=red", "colour");
    expect_refused("nbd://server?socket=/s", "nbd+unix://");
    expect_refused("nbd+unix:///x", "?socket=PATH");
    expect_refused("nbd+unix:///x?socket=s", "absolute");
    expect_refused("nbd+unix://server/x?socket=/s", "no host");
}

}  // namespace
}  // namespace outrigger::blk
