//! Values of records, field by field.

/// Writes the fields of a value in order.
#[derive(Debug)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Begins a value of the given layout version.
    pub fn new(version: u8) -> Self {
        Self(vec![version])
    }

    /// Text, up to 4 GiB.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        let length = u32::try_from(text.len()).expect("a field is shorter than 4 GiB");
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Text or nothing.
    #[must_use]
    pub fn maybe(self, text: Option<&str>) -> Self {
        match text {
            None => self.flag(false),
            Some(text) => self.flag(true).text(text),
        }
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// Yes or no.
    #[must_use]
    pub fn flag(mut self, flag: bool) -> Self {
        self.0.push(u8::from(flag));
        self
    }

    /// A list: its length, then each item by `item`.
    #[must_use]
    pub fn list<T>(self, items: impl ExactSizeIterator<Item = T>, item: impl Fn(Self, T) -> Self) -> Self {
        let counted = self.number(items.len() as u64);
        items.fold(counted, item)
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A value that ends too early or holds something else than its owner wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record of {what} is damaged at byte {at}")]
pub struct Damaged {
    what: &'static str,
    at: usize,
}

/// Reads the fields of a value in order.
#[derive(Debug)]
pub struct Decoder<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Begins a value of the given layout version; `what` names it in errors.
    pub fn new(what: &'static str, version: u8, bytes: &'a [u8]) -> std::result::Result<Self, Damaged> {
        let mut decoder = Self { what, bytes, at: 0 };
        if decoder.take(1)? == [version] {
            Ok(decoder)
        } else {
            Err(Damaged { what, at: 0 })
        }
    }

    fn take(&mut self, length: usize) -> std::result::Result<&'a [u8], Damaged> {
        let damaged = Damaged {
            what: self.what,
            at: self.at,
        };
        let end = self.at.checked_add(length).ok_or(damaged.clone())?;
        let taken = self.bytes.get(self.at..end).ok_or(damaged)?;
        self.at = end;
        Ok(taken)
    }

    /// A sentence for a field that reads well but makes no sense to its owner.
    pub fn damaged(&self) -> Damaged {
        Damaged {
            what: self.what,
            at: self.at,
        }
    }

    /// Text.
    pub fn text(&mut self) -> std::result::Result<String, Damaged> {
        let length: [u8; 4] = self.take(4)?.try_into().expect("four bytes were taken");
        let damaged = self.damaged();
        let bytes = self.take(u32::from_le_bytes(length) as usize)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| damaged)
    }

    /// Text or nothing.
    pub fn maybe(&mut self) -> std::result::Result<Option<String>, Damaged> {
        if self.flag()? {
            self.text().map(Some)
        } else {
            Ok(None)
        }
    }

    /// A number.
    pub fn number(&mut self) -> std::result::Result<u64, Damaged> {
        let bytes: [u8; 8] = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    /// Yes or no.
    pub fn flag(&mut self) -> std::result::Result<bool, Damaged> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.damaged()),
        }
    }

    /// A list.
    pub fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> std::result::Result<T, Damaged>,
    ) -> std::result::Result<Vec<T>, Damaged> {
        let count = self.number()?;
        (0..count).map(|_| item(self)).collect()
    }

    /// The value ends here.
    pub fn end(self) -> std::result::Result<(), Damaged> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.damaged())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_and_damage_is_told() {
        let bytes = Encoder::new(3)
            .text("é")
            .maybe(None)
            .maybe(Some("b"))
            .number(7)
            .flag(true);
        let bytes = bytes.list(["p", "q"].iter(), |e, t| e.text(t)).finish();
        let mut d = Decoder::new("thing", 3, &bytes).unwrap();
        assert_eq!(d.text().unwrap(), "é");
        assert_eq!(
            (d.maybe().unwrap(), d.maybe().unwrap()),
            (None, Some("b".to_owned()))
        );
        assert_eq!((d.number().unwrap(), d.flag().unwrap()), (7, true));
        assert_eq!(d.list(Decoder::text).unwrap(), ["p", "q"]);
        d.end().unwrap();
        assert!(Decoder::new("thing", 4, &bytes).is_err());
        for cut in 0..bytes.len() {
            let read = || -> std::result::Result<(), Damaged> {
                let mut d = Decoder::new("thing", 3, &bytes[..cut])?;
                d.text()?;
                d.maybe()?;
                d.maybe()?;
                d.number()?;
                d.flag()?;
                d.list(Decoder::text)?;
                d.end()
            };
            assert!(read().is_err(), "a value cut at byte {cut} was read");
        }
    }
}
