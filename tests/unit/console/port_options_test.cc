// SPDX-License-Identifier: Apache-2.0
#include "devices/console/port_options.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace outrigger::console {
namespace {

std::string refusal_of_all(const std::vector<std::string>& texts) {
    const auto ports = parse_ports(texts);
    return ports ? "accepted" : ports.error().message;
}

std::string refusal(const std::string& text) {
    const auto port = parse_port(text, true);
    return port ? "accepted" : port.error().message;
}

TEST(PortOptions, TheFirstPortIsAConsoleWithAReplay) {
    const auto ports = parse_ports({"name=a,backend=null", "name=b,backend=null"}).value();
    EXPECT_TRUE(ports[0].console);
    EXPECT_EQ(ports[0].replay_bytes, 64U << 10);
    EXPECT_FALSE(ports[1].console);
    EXPECT_EQ(ports[1].replay_bytes, 0U);
}

TEST(PortOptions, EveryKeyIsTaken) {
    const auto port =
        parse_port(
            "name=x.y-z_1,backend=unix,path=/s,console=off,plugged=off,log=/l,log-max=1M,"
            "log-files=5,replay=8K,viewers=7,size=132x43",
            true)
            .value();
    EXPECT_EQ(port.name, "x.y-z_1");
    EXPECT_EQ(port.backend, Backend::kUnix);
    EXPECT_EQ(port.path, "/s");
    EXPECT_FALSE(port.console);
    EXPECT_FALSE(port.plugged);
    EXPECT_EQ(port.log_path, "/l");
    EXPECT_EQ(port.log_bytes_max, 1U << 20);
    EXPECT_EQ(port.log_files, 5U);
    EXPECT_EQ(port.replay_bytes, 8192U);
    EXPECT_EQ(port.viewers_max, 7U);
    EXPECT_EQ(port.columns, 132);
    EXPECT_EQ(port.rows, 43);
}

TEST(PortOptions, EachBackendIsKnown) {
    EXPECT_EQ(parse_port("name=a,backend=pty,link=/l", true)->path, "/l");
    EXPECT_EQ(parse_port("name=a,backend=tcp,tcp-port=65535", true)->tcp_port, 65535);
    EXPECT_EQ(parse_port("name=a,backend=stdio", true)->backend, Backend::kStdio);
    EXPECT_EQ(parse_port("name=a,backend=file,path=/f", true)->path, "/f");
}

TEST(PortOptions, NamesThatCannotBeAreRefused) {
    const std::string rule =
        "name is required and takes letters, digits, '-', '_' and '.', at most 64";
    EXPECT_EQ(refusal("backend=null"), rule);
    EXPECT_EQ(refusal("backend=null,name=a/b"), rule);
    EXPECT_EQ(refusal("backend=null,name=" + std::string(65, 'a')), rule);
    EXPECT_EQ(refusal("backend=null,name=" + std::string(64, 'a')), "accepted");
}

TEST(PortOptions, WhatABackendHasNotIsRefused) {
    EXPECT_EQ(refusal("name=a"), "backend is required: pty, unix, tcp, stdio, file or null");
    EXPECT_EQ(refusal("name=a,backend=serial"),
              "backend is one of pty, unix, tcp, stdio, file and null, not 'serial'");
    EXPECT_EQ(refusal("name=a,backend=unix"), "backend=unix needs path=PATH or fd-name=NAME");
    EXPECT_EQ(refusal("name=a,backend=file"), "backend=file needs path=PATH");
    EXPECT_EQ(refusal("name=a,backend=tcp"), "backend=tcp needs tcp-port=N or fd-name=NAME");
    EXPECT_EQ(refusal("name=a,backend=pty,fd-name=n"), "backend=pty has no fd-name");
    EXPECT_EQ(refusal("name=a,backend=file,path=/f,fd-name=n"), "backend=file has no fd-name");
    EXPECT_EQ(refusal("name=a,backend=unix,fd-name="), "fd-name takes the name of a socket");
    EXPECT_EQ(refusal("name=a,backend=unix,path=/p,fd-name=n"),
              "fd-name stands in the place of path and tcp-port: give one");
    EXPECT_EQ(refusal("name=a,backend=tcp,tcp-port=5,fd-name=n"),
              "fd-name stands in the place of path and tcp-port: give one");
    EXPECT_EQ(refusal("name=a,backend=pty,path=/p"), "backend=pty has no path");
    EXPECT_EQ(refusal("name=a,backend=unix,path=/p,link=/l"), "backend=unix has no link");
    EXPECT_EQ(refusal("name=a,backend=null,tcp-port=1"), "backend=null has no tcp-port");
    EXPECT_EQ(refusal("name=a,backend=pty,viewers=2"), "backend=pty has one viewer");
    EXPECT_EQ(refusal("name=a,backend=null,log-max=4096"), "log-max and log-files need log=PATH");
}

TEST(PortOptions, ValuesThatCannotBeAreRefused) {
    EXPECT_EQ(refusal("name=a,backend=null,console=yes"), "console takes on or off, not 'yes'");
    EXPECT_EQ(refusal("name=a,backend=tcp,tcp-port=0"),
              "tcp-port takes a number from 1 to 65535, not '0'");
    EXPECT_EQ(refusal("name=a,backend=tcp,tcp-port=65536"),
              "tcp-port takes a number from 1 to 65535, not '65536'");
    EXPECT_NE(refusal("name=a,backend=null,replay=16385K"), "accepted");
    EXPECT_NE(refusal("name=a,backend=null,replay=K"), "accepted");
    EXPECT_NE(refusal("name=a,backend=null,replay=-1"), "accepted");
    EXPECT_NE(refusal("name=a,backend=null,replay=99999999999999999999"), "accepted");
    EXPECT_NE(refusal("name=a,backend=null,replay=18014398509481985K"), "accepted");
    EXPECT_NE(refusal("name=a,backend=null,log=/l,log-max=4095"), "accepted");
    EXPECT_NE(refusal("name=a,backend=null,log=/l,log-files=0"), "accepted");
    EXPECT_NE(refusal("name=a,backend=unix,path=/p,viewers=0"), "accepted");
    for (const char* const size :
         {"80", "x", "80x", "x24", "0x24", "80x0", "80x65536", "80x24x1"}) {
        EXPECT_NE(refusal(std::string("name=a,backend=null,size=") + size), "accepted") << size;
    }
    EXPECT_EQ(refusal("name=a,backend=null,colour=on"), "a port has no option colour");
    EXPECT_EQ(refusal("name=a,backend=null,name=b"), "name is given twice");
}

TEST(PortOptions, APathLeavesRoomForTheSocketBesideIt) {
    EXPECT_EQ(refusal("name=a,backend=unix,path=" + std::string(102, 'p')), "accepted");
    EXPECT_EQ(refusal("name=a,backend=unix,path=" + std::string(103, 'p')),
              "path is longer than a socket's name can be (102 bytes): choose a shorter one");
}

TEST(PortOptions, PortsThatWantOneThingAreRefused) {
    EXPECT_EQ(refusal_of_all({}),
              "--port is required: say where the host's side of the console is");
    EXPECT_EQ(refusal_of_all({"name=a,backend=null", "name=a,backend=null"}),
              "two ports are called a: give each its own name");
    EXPECT_EQ(refusal_of_all({"name=a,backend=stdio", "name=b,backend=stdio"}),
              "two ports have backend=stdio: there is one standard input");
    EXPECT_EQ(refusal_of_all({"name=a,backend=tcp,tcp-port=7", "name=b,backend=tcp,tcp-port=7"}),
              "two ports have tcp-port=7");
    EXPECT_EQ(refusal_of_all({"name=a,backend=unix,path=/p", "name=b,backend=file,path=/p"}),
              "two ports have /p: give each its own");
    EXPECT_EQ(refusal_of_all({"name=a,backend=null,log=/l", "name=b,backend=null,log=/l"}),
              "two ports have /l: give each its own");
    EXPECT_EQ(refusal_of_all({"name=a,backend=file,path=/l", "name=b,backend=null,log=/l"}),
              "two ports have /l: give each its own");
}

TEST(PortOptions, ThirtyTwoPortsAreTooMany) {
    std::vector<std::string> texts;
    for (size_t i = 0; i < kPortsMax; ++i) {
        texts.push_back("backend=null,name=p" + std::to_string(i));
    }
    EXPECT_EQ(refusal_of_all(texts), "accepted");
    texts.push_back("backend=null,name=last");
    EXPECT_EQ(refusal_of_all(texts), "--port can be given 31 times at most");
}

}  // namespace
}  // namespace outrigger::console
