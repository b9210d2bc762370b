//! Any socket behind one trait, so that a body is written once.

use std::future::Future;
use std::pin::Pin;

use ripstop::{
    Endpoint, Message,
    socket::{
        ConnectOptions, Dealer, Event, Monitor, Options, Pair, Pub, Pull, Push, RecvError, Rep, Req, Router,
        SendError, Sub, XPub, XSub,
    },
};

pub(crate) type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(crate) trait Any: Send + Sync {
    fn bind<'a>(&'a self, endpoint: &'a str) -> Fut<'a, Endpoint>;
    fn connect(&self, endpoint: &str, options: ConnectOptions);
    fn monitor(&self) -> Monitor;
    fn close(&self) -> Fut<'_, ()>;
    fn send(&self, message: Message) -> Fut<'_, Result<(), SendError>>;
    fn recv(&self) -> Fut<'_, Result<Message, RecvError>>;
    fn subscribe(&self, _prefix: &str) {}
}

macro_rules! any {
    ($($type:ident $(send $send:tt)? $(recv $recv:tt)? $(sub $sub:tt)?;)*) => {$(
        impl Any for $type {
            fn bind<'a>(&'a self, endpoint: &'a str) -> Fut<'a, Endpoint> {
                Box::pin(async move { $type::bind(self, endpoint).await.unwrap() })
            }
            fn connect(&self, endpoint: &str, options: ConnectOptions) {
                $type::connect_with(self, endpoint, options).unwrap();
            }
            fn monitor(&self) -> Monitor {
                $type::monitor(self)
            }
            fn close(&self) -> Fut<'_, ()> {
                Box::pin($type::close(self))
            }
            any!(@send $type $($send)?);
            any!(@recv $type $($recv)?);
            $(any!(@sub $type $sub);)?
        }
    )*};
    (@send $type:ident yes) => {
        fn send(&self, message: Message) -> Fut<'_, Result<(), SendError>> {
            Box::pin(async move { $type::send(self, &message).await })
        }
    };
    (@send $type:ident) => {
        fn send(&self, _: Message) -> Fut<'_, Result<(), SendError>> {
            panic!("it cannot send")
        }
    };
    (@recv $type:ident yes) => {
        fn recv(&self) -> Fut<'_, Result<Message, RecvError>> {
            Box::pin($type::recv(self))
        }
    };
    (@recv $type:ident) => {
        fn recv(&self) -> Fut<'_, Result<Message, RecvError>> {
            panic!("it cannot receive")
        }
    };
    // XSUB subscribes by a message, and a fresh socket always has room for it.
    (@sub $type:ident message) => {
        fn subscribe(&self, prefix: &str) {
            $type::try_send(self, [&[1u8], prefix.as_bytes()].concat()).unwrap();
        }
    };
    (@sub $type:ident yes) => {
        fn subscribe(&self, prefix: &str) {
            $type::subscribe(self, prefix);
        }
    };
}

any! {
    Req send yes recv yes;
    Rep send yes recv yes;
    Dealer send yes recv yes;
    Router send yes recv yes;
    Pub send yes;
    Sub recv yes sub yes;
    XPub send yes recv yes;
    XSub send yes recv yes sub message;
    Push send yes;
    Pull recv yes;
    Pair send yes recv yes;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Type {
    Req,
    Rep,
    Dealer,
    Router,
    Pub,
    Sub,
    XPub,
    XSub,
    Push,
    Pull,
    Pair,
}

pub(crate) fn open(kind: Type, options: Options) -> Box<dyn Any> {
    match kind {
        Type::Req => Box::new(Req::with_options(options)),
        Type::Rep => Box::new(Rep::with_options(options)),
        Type::Dealer => Box::new(Dealer::with_options(options)),
        Type::Router => Box::new(Router::with_options(options)),
        Type::Pub => Box::new(Pub::with_options(options)),
        Type::Sub => Box::new(Sub::with_options(options)),
        Type::XPub => Box::new(XPub::with_options(options)),
        Type::XSub => Box::new(XSub::with_options(options)),
        Type::Push => Box::new(Push::with_options(options)),
        Type::Pull => Box::new(Pull::with_options(options)),
        Type::Pair => Box::new(Pair::with_options(options)),
    }
}

/// Waits for an event; everything before it is passed over.
pub(crate) async fn until(monitor: &mut Monitor, wanted: impl Fn(&Event) -> bool) -> Event {
    crate::soon(async {
        loop {
            let event = monitor.next().await.expect("the socket is gone");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Whether messages flow now, on either side.
pub(crate) fn up(event: &Event) -> bool {
    matches!(event, Event::Connected { .. } | Event::Accepted { .. })
}
