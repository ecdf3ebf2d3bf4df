//! The floor: what a multiplexer costs that understands nothing but where frames end. One thread, one
//! connection to the node, no error handling to speak of: nothing that serves real clients can be
//! cheaper, so its figures are what a proxy's are measured against.
//!
//! A turn: read every client that is ready, write the node once, read the node, write every client that
//! got something once.

use std::collections::VecDeque;
use std::io;
use std::net::{TcpListener, TcpStream};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

const LISTENER: u64 = u64::MAX;
const NODE: u64 = u64::MAX - 1;

struct Client {
    stream: TcpStream,
    /// The part of a request that came.
    input: Vec<u8>,
    out: Vec<u8>,
    /// Whether it is in the list of clients to write to.
    dirty: bool,
}

struct Node {
    stream: TcpStream,
    input: Vec<u8>,
    out: Vec<u8>,
    /// The clients whose replies are awaited, in order, each with how many.
    awaited: VecDeque<(usize, u32)>,
}

/// Serves `port` with the node at `target`, until it is killed.
pub fn run(port: u16, target: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    let stream = TcpStream::connect(("127.0.0.1", target))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let poller = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(
        &poller,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    epoll::add(&poller, &stream, EventData::new_u64(NODE), EventFlags::IN)?;
    let mut node = Node {
        stream,
        input: Vec::new(),
        out: Vec::new(),
        awaited: VecDeque::new(),
    };
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    let mut events = Vec::with_capacity(256);
    let mut dirty = Vec::new();
    loop {
        events.clear();
        match epoll::wait(&poller, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut node_ready = false;
        for event in &events {
            match event.data.u64() {
                LISTENER => accept(&listener, &poller, &mut clients)?,
                NODE => node_ready = true,
                index => requests(&mut clients, index as usize, &mut node, &mut scratch),
            }
        }
        if node_ready {
            replies(&mut node, &mut clients, &mut dirty, &mut scratch)?;
        }
        flush(&node.stream, &mut node.out)?;
        for index in dirty.drain(..) {
            if let Some(client) = &mut clients[index] {
                client.dirty = false;
                if flush(&client.stream, &mut client.out).is_err() {
                    clients[index] = None;
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poller: &impl std::os::fd::AsFd,
    clients: &mut Vec<Option<Client>>,
) -> io::Result<()> {
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = EventData::new_u64(clients.len() as u64);
        epoll::add(poller, &stream, data, EventFlags::IN)?;
        clients.push(Some(Client {
            stream,
            input: Vec::new(),
            out: Vec::new(),
            dirty: false,
        }));
    }
    Ok(())
}

fn requests(clients: &mut [Option<Client>], index: usize, node: &mut Node, scratch: &mut [u8]) {
    let Some(client) = &mut clients[index] else {
        return;
    };
    let n = match recv(&client.stream, &mut *scratch, RecvFlags::empty()) {
        Err(Errno::AGAIN) => return,
        Ok((_, 0)) | Err(_) => {
            clients[index] = None;
            return;
        }
        Ok((_, n)) => n,
    };
    let count = frames(&mut client.input, &scratch[..n], &mut node.out);
    if count > 0 {
        node.awaited.push_back((index, count));
    }
}

/// Appends the frames that are whole to `out`; keeps the rest. Returns their number.
fn frames(input: &mut Vec<u8>, data: &[u8], out: &mut Vec<u8>) -> u32 {
    let (mut end, mut count) = (0, 0);
    if input.is_empty() {
        while let Some(len) = frame(&data[end..]) {
            end += len;
            count += 1;
        }
        out.extend_from_slice(&data[..end]);
        input.extend_from_slice(&data[end..]);
    } else {
        input.extend_from_slice(data);
        while let Some(len) = frame(&input[end..]) {
            end += len;
            count += 1;
        }
        out.extend_from_slice(&input[..end]);
        input.drain(..end);
    }
    count
}

fn replies(
    node: &mut Node,
    clients: &mut [Option<Client>],
    dirty: &mut Vec<usize>,
    scratch: &mut [u8],
) -> io::Result<()> {
    let n = match recv(&node.stream, &mut *scratch, RecvFlags::empty()) {
        Err(Errno::AGAIN) => return Ok(()),
        Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok((_, n)) => n,
        Err(error) => return Err(error.into()),
    };
    node.input.extend_from_slice(&scratch[..n]);
    let mut at = 0;
    while let Some((index, awaited)) = node.awaited.front_mut() {
        let start = at;
        while *awaited > 0
            && let Some(len) = frame(&node.input[at..])
        {
            at += len;
            *awaited -= 1;
        }
        let (index, done) = (*index, *awaited == 0);
        if let Some(client) = &mut clients[index] {
            client.out.extend_from_slice(&node.input[start..at]);
            if !client.dirty {
                client.dirty = true;
                dirty.push(index);
            }
        }
        if !done {
            break;
        }
        node.awaited.pop_front();
    }
    node.input.drain(..at);
    Ok(())
}

/// Writes everything; what the kernel does not take stays, and is tried again at the next turn.
fn flush(stream: &TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    let mut at = 0;
    while at < out.len() {
        match send(stream, &out[at..], SendFlags::NOSIGNAL) {
            Ok(n) => at += n,
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    out.drain(..at);
    Ok(())
}

/// The length of the frame at the start of `data`: strings, arrays of strings and one-line replies.
fn frame(data: &[u8]) -> Option<usize> {
    match data.first()? {
        b'*' => {
            let (count, mut at) = number(data)?;
            for _ in 0..count {
                at += string(&data[at..])?;
            }
            Some(at)
        }
        b'$' => string(data),
        _ => Some(data.iter().position(|byte| *byte == b'\n')? + 1),
    }
}

fn string(data: &[u8]) -> Option<usize> {
    let (len, at) = number(data)?;
    let end = match usize::try_from(len) {
        Ok(len) => at + len + 2,
        Err(_) => at,
    };
    (end <= data.len()).then_some(end)
}

/// The number behind the type byte, and where the line ends.
fn number(data: &[u8]) -> Option<(i64, usize)> {
    let (mut value, mut sign, mut at) = (0, 1, 1);
    loop {
        match *data.get(at)? {
            b'-' => sign = -1,
            b'\r' => break,
            digit => value = value * 10 + i64::from(digit.wrapping_sub(b'0')),
        }
        at += 1;
    }
    (at + 2 <= data.len()).then_some((value * sign, at + 2))
}
