// Preloaded into a process: writes every call that would leave this machine, or let another one in, to the file that
// OUTGOING_LOG names, one line each, and refuses it, so that a test sends nothing even where it fails. Local sockets pass.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

void report(const char* call, const char* target) {
    char line[512];
    const int length = snprintf(line, sizeof line, "%s %s (process %d)\n", call, target, int(getpid()));
    const char* path = getenv("OUTGOING_LOG");
    // Without its file the watch would see nothing and every test would pass.
    const int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file < 0 || write(file, line, size_t(length) < sizeof line ? length : sizeof line - 1) < 0) abort();
    close(file);
}

// Whether an address stays on this machine; if not, the call is reported.
bool is_local(const char* call, const sockaddr* address) {
    if (address == nullptr) return true;  // of a connected socket: connect() was judged
    char text[INET6_ADDRSTRLEN] = "?";
    if (address->sa_family == AF_INET) {
        const auto& four = reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
        if (ntohl(four.s_addr) >> 24 == 127) return true;
        inet_ntop(AF_INET, &four, text, sizeof text);
    } else if (address->sa_family == AF_INET6) {
        const auto& six = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
        if (IN6_IS_ADDR_LOOPBACK(&six)) return true;
        if (IN6_IS_ADDR_V4MAPPED(&six) && six.s6_addr[12] == 127) return true;
        inet_ntop(AF_INET6, &six, text, sizeof text);
    } else {
        return true;  // AF_UNIX, AF_NETLINK, and AF_UNSPEC, which ends a connection
    }
    report(call, text);
    return false;
}

bool is_local_name(const char* call, const char* name) {
    if (name == nullptr || strcmp(name, "localhost") == 0 || strncmp(name, "127.", 4) == 0 || strcmp(name, "::1") == 0)
        return true;
    report(call, name);
    return false;
}

template <typename Function>
Function next(const char* name, Function) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

int refused() {
    errno = ECONNREFUSED;
    return -1;
}

}  // namespace

extern "C" {

int connect(int socket, const sockaddr* address, socklen_t size) {
    return is_local("connect", address) ? next("connect", connect)(socket, address, size) : refused();
}

ssize_t sendto(int socket, const void* data, size_t bytes, int flags, const sockaddr* address, socklen_t size) {
    return is_local("sendto", address) ? next("sendto", sendto)(socket, data, bytes, flags, address, size) : refused();
}

ssize_t sendmsg(int socket, const msghdr* message, int flags) {
    return is_local("sendmsg", static_cast<sockaddr*>(message->msg_name)) ? next("sendmsg", sendmsg)(socket, message, flags)
                                                                          : refused();
}

int sendmmsg(int socket, mmsghdr* messages, unsigned count, int flags) {
    for (unsigned each = 0; each < count; ++each)
        if (!is_local("sendmmsg", static_cast<sockaddr*>(messages[each].msg_hdr.msg_name))) return refused();
    return next("sendmmsg", sendmmsg)(socket, messages, count, flags);
}

int bind(int socket, const sockaddr* address, socklen_t size) {
    return is_local("bind", address) ? next("bind", bind)(socket, address, size) : refused();
}

// A socket that was bound to no address would listen on all.
int listen(int socket, int backlog) {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    auto* bound = reinterpret_cast<sockaddr*>(&address);
    if (getsockname(socket, bound, &size) != 0 || !is_local("listen", bound)) return refused();
    return next("listen", listen)(socket, backlog);
}

int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
    return is_local_name("getaddrinfo", name) ? next("getaddrinfo", getaddrinfo)(name, service, hints, found) : EAI_FAIL;
}

hostent* gethostbyname(const char* name) {
    return is_local_name("gethostbyname", name) ? next("gethostbyname", gethostbyname)(name) : nullptr;
}

}  // extern "C"
