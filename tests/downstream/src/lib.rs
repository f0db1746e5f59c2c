//! A program that uses the locks: a bank whose processes share their books, and lock each account by a key.
//!
//! Two of its functions are wrong on purpose. The tests find both, by each of the three ways to test such a program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_filelock::{Error, LockSpace, lock_all};

/// What the processes share: how much there is in each account. A real bank has it on the disk.
#[derive(Debug, Clone, Default)]
pub struct Books(Arc<Mutex<BTreeMap<String, u64>>>);

impl Books {
    pub fn read(&self, account: &str) -> u64 {
        self.0.lock().unwrap().get(account).copied().unwrap_or_default()
    }

    pub fn write(&self, account: &str, amount: u64) {
        self.0.lock().unwrap().insert(account.to_owned(), amount);
    }
}

/// One process of the bank.
#[derive(Debug, Clone)]
pub struct Bank {
    accounts: LockSpace,
    books: Books,
}

impl Bank {
    pub fn new(accounts: LockSpace, books: Books) -> Self {
        Self { accounts, books }
    }

    pub async fn deposit(&self, account: &str, amount: u64) -> Result<(), Error> {
        let _guard = self.accounts.key(account).lock().await?;
        self.books.write(account, self.books.read(account) + amount);
        Ok(())
    }

    /// Wrong: lets go of the account between reading and writing.
    pub async fn deposit_with_a_gap(&self, account: &str, amount: u64) -> Result<(), Error> {
        let key = self.accounts.key(account);
        let before = {
            let _reads = key.lock().await?;
            self.books.read(account)
        };
        let _writes = key.lock().await?;
        self.books.write(account, before + amount);
        Ok(())
    }

    /// Does nothing if there is not so much in the first account.
    pub async fn transfer(&self, from: &str, to: &str, amount: u64) -> Result<(), Error> {
        let _guards = lock_all([self.accounts.key(from), self.accounts.key(to)]).await?;
        self.book(from, to, amount);
        Ok(())
    }

    /// Wrong: two tasks that move money in both directions wait for each other.
    pub async fn transfer_one_by_one(
        &self,
        from: &str,
        to: &str,
        amount: u64,
    ) -> Result<(), Error> {
        let _first = self.accounts.key(from).lock().await?;
        let _second = self.accounts.key(to).lock().await?;
        self.book(from, to, amount);
        Ok(())
    }

    fn book(&self, from: &str, to: &str, amount: u64) {
        if let Some(rest) = self.books.read(from).checked_sub(amount) {
            self.books.write(from, rest);
            self.books.write(to, self.books.read(to) + amount);
        }
    }
}
